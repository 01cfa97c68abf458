import pytest
from pydantic import ValidationError

from chutes.server.settings import Settings


def test_the_environment_sets_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_PORT", "9001")
    monkeypatch.setenv("CHUTES_QUEUE_SIZE", "3")
    monkeypatch.setenv("CHUTES_LOG_LEVEL", "DEBUG")
    settings = Settings(port=9002)
    assert (settings.port, settings.queue_size, settings.log_level) == (9002, 3, "debug")


def test_keys_are_split_at_commas_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_API_KEYS", "one, two,,three ")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two", "three"]
    assert "two" not in repr(settings)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_API_KEYS", "")
    monkeypatch.setenv("CHUTES_PORT", "")
    assert Settings().api_keys == ()
    assert Settings().port == 8000


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("gpu-box", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).is_loopback is loopback


@pytest.mark.parametrize(
    "wrong", [{"port": 70000}, {"queue_size": -1}, {"request_timeout": 0}, {"max_body_bytes": 0}, {"log_level": "loud"}]
)
def test_bounds(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)
