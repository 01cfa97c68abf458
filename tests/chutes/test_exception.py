import inspect

import pytest

from chutes import exception
from chutes.exception import ChutesError

ALL = [kind for _, kind in inspect.getmembers(exception, inspect.isclass) if issubclass(kind, ChutesError)]


@pytest.mark.parametrize("kind", ALL)
def test_each_has_a_status_a_code_and_a_message(kind: type[ChutesError]) -> None:
    assert 400 <= kind.status < 600
    assert kind.code.replace("_", "").isalpha()
    error = kind()
    assert str(error) == kind.message
    assert error.headers == {}
    assert str(kind("said")) == "said"
    assert kind(headers={"Retry-After": "1"}).headers == {"Retry-After": "1"}


def test_the_tree_is_drawn_in_full() -> None:
    for kind in ALL:
        assert kind.__name__ in (exception.__doc__ or "")


def test_upstreams_bases() -> None:
    assert issubclass(exception.InvalidPath, ValueError)
    assert issubclass(exception.DuplicatePath, ValueError)
