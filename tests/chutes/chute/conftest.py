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
    """Run the chute's hooks, and give a client of it."""
    with ExitStack() as stack:
        yield lambda chute: stack.enter_context(TestClient(chute))
