"""Settings from the environment."""

import pytest

from imagegen.errors import LoadError
from imagegen.settings import Settings


def test_the_environment_is_read(monkeypatch):
    monkeypatch.setenv("IMAGEGEN_MAX_SEQUENCE_LENGTH", "512")
    monkeypatch.setenv("IMAGEGEN_MODEL", "")
    assert (Settings.read().max_sequence_length, Settings.read().model) == (512, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PRECISION", "int4"), ("MEMORY", "lots"), ("MAX_SEQUENCE_LENGTH", "513"), ("OOM_FALLBACK", "maybe")],
)
def test_what_is_wrong_is_named_in_one_line(monkeypatch, name, value):
    monkeypatch.setenv(f"IMAGEGEN_{name}", value)
    with pytest.raises(LoadError) as error:
        Settings.read()
    print(error.value)
    assert str(error.value).startswith(f"IMAGEGEN_{name}={value}: input should be ")
    assert "\n" not in str(error.value)
