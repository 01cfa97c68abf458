"""A loaded model and a running engine for the tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagegen import models
from imagegen.engine import Engine
from imagegen.settings import Settings


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> models.Model:
    return models.load(str(tiny_model), settings=Settings())


@pytest.fixture
def start(model: models.Model) -> Iterator[Callable[..., Engine]]:
    """`start(**options)` starts an engine that is stopped after the test."""
    engines = []

    def start(**options: object) -> Engine:
        engine = Engine(model, **options)
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.stop()


@pytest.fixture
def engine(start: Callable[..., Engine]) -> Engine:
    return start()
