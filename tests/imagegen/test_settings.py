"""Settings from the environment."""

import pytest

from imagegen.errors import LoadError
from imagegen.settings import Settings, misspelt_settings


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEGEN_MAX_SEQUENCE_LENGTH", "512")
    monkeypatch.setenv("IMAGEGEN_MODEL", "")
    assert (Settings.read().max_sequence_length, Settings.read().model) == (512, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PRECISION", "int4"), ("MEMORY", "lots"), ("MAX_SEQUENCE_LENGTH", "513"), ("OOM_FALLBACK", "maybe")],
)
def test_an_invalid_value_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"IMAGEGEN_{name}", value)
    with pytest.raises(LoadError) as error:
        Settings.read()
    print(error.value)
    assert str(error.value).startswith(f"IMAGEGEN_{name}={value} is invalid: input should be ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("IMAGEGEN_PRECISON", "IMAGEGEN_PRECISION"),
        ("imagegen_mode", "IMAGEGEN_MODEL"),
        ("IMAGEN_MODEL", "IMAGEGEN_MODEL"),
        ("IMAGEGEN_MAX_SEQUENCE_LENGHT", "IMAGEGEN_MAX_SEQUENCE_LENGTH"),
    ],
)
def test_a_misspelt_name_is_warned_of(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "fp8")
    Settings.read()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == f"{name} is not a setting and has no effect. Did you mean {meant}?"


def test_settings_and_the_names_of_others_are_not_warned_of() -> None:
    others = ["IMAGEGEN_PORT", "IMAGEGEN_SERVICE_HOST", "IMAGEGEN_PORT_8000_TCP", "CHUTES_MODEL", "MODEL", "PATH"]
    settings = [f"IMAGEGEN_{name.upper()}" for name in Settings.model_fields]
    assert not [*misspelt_settings(dict.fromkeys([*others, *settings, "imagegen_model"], "1"))]
    assert not [*misspelt_settings({"IMAGEGEN_PRECISON": ""})]


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())
