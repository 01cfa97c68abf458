import inspect
import re

import pytest

from chutes import exception
from chutes.exception import ChutesError, CommandError

CLASSES = [kind for _, kind in inspect.getmembers(exception, inspect.isclass)]
RESPONSES = [kind for kind in CLASSES if issubclass(kind, ChutesError)]
COMMANDS = [kind for kind in CLASSES if issubclass(kind, CommandError)]
ORDINARY_MESSAGE = re.compile(r"[A-Z].*\.")


@pytest.mark.parametrize("kind", RESPONSES)
def test_each_response_has_a_status_a_code_and_a_message(kind: type[ChutesError]) -> None:
    assert 400 <= kind.status < 600
    assert kind.code.replace("_", "").isalpha()
    assert ORDINARY_MESSAGE.fullmatch(kind.message)
    error = kind()
    assert str(error) == kind.message
    assert error.headers == {}
    assert str(kind("said")) == "said"
    assert kind(headers={"Retry-After": "1"}).headers == {"Retry-After": "1"}


@pytest.mark.parametrize("kind", COMMANDS)
def test_each_command_error_has_an_exit_code_and_a_message(kind: type[CommandError]) -> None:
    assert kind.exit_code in {1, 3}
    assert ORDINARY_MESSAGE.fullmatch(kind.message)
    assert str(kind()) == kind.message
    assert str(kind("said")) == "said"


def test_the_trees_are_drawn_in_full() -> None:
    text = exception.__doc__ or ""
    for kind in (*RESPONSES, *COMMANDS):
        assert re.search(rf"\b{kind.__name__}\b", text), kind


def test_the_trees_have_no_class_in_common() -> None:
    assert not set(RESPONSES) & set(COMMANDS)


def test_exceptions_have_upstreams_base_classes() -> None:
    assert issubclass(exception.InvalidPath, ValueError)
    assert issubclass(exception.DuplicatePath, ValueError)
    for kind in (exception.AuthenticationRequired, exception.NotConfigured, exception.StillProvisioning):
        assert issubclass(kind, RuntimeError)
