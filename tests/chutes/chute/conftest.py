from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fastapi.testclient import TestClient

from chutes.chute import Chute


@pytest.fixture
def chute() -> Chute:
    return Chute(username="myuser", name="test", image="img")


@pytest.fixture
def serve() -> Iterator[Callable[[Chute], TestClient]]:
    """Return a function that runs a chute's hooks and returns a client."""
    with ExitStack() as stack:
        yield lambda chute: stack.enter_context(TestClient(chute))
