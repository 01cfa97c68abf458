"""The image service that all promises about images share: `chutes run chutes_app:chute` with default settings."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.server import Server, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service, ready; the model that ships draws at 256 pixels, a step in some 50 ms."""
    with serving(tmp_path_factory.mktemp("service"), "", ref=str(ROOT / "chutes_app.py")) as server:
        yield server
