import pytest
from pydantic import ValidationError

from chutes.server.settings import Settings, settings_from_environment

# What Kubernetes sets in every container of a namespace that has a service named `chutes`.
SERVICE_LINKS = {
    "CHUTES_SERVICE_HOST": "10.0.0.1",
    "CHUTES_SERVICE_PORT": "8000",
    "CHUTES_SERVICE_PORT_HTTP": "8000",
    "CHUTES_PORT": "tcp://10.0.0.1:8000",
    "CHUTES_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "CHUTES_PORT_8000_TCP_PROTO": "tcp",
    "CHUTES_PORT_8000_TCP_PORT": "8000",
    "CHUTES_PORT_8000_TCP_ADDR": "10.0.0.1",
}


def test_arguments_take_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_PORT", "9001")
    monkeypatch.setenv("CHUTES_QUEUE_SIZE", "3")
    monkeypatch.setenv("CHUTES_LOG_LEVEL", "DEBUG")
    settings = Settings(port=9002)
    assert (settings.port, settings.queue_size, settings.log_level) == (9002, 3, "debug")


def test_keys_are_split_at_commas_and_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_API_KEYS", "one, two,,three ")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two", "three"]
    assert "two" not in repr(settings)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_API_KEYS", "")
    monkeypatch.setenv("CHUTES_PORT", "")
    assert Settings().api_keys == ()
    assert Settings().port == 8000


@pytest.mark.parametrize("link", ["tcp://10.0.0.1:8000", "udp://10.0.0.1:53", "sctp://[fd00::1]:80"])
def test_variables_of_a_service_named_chutes_are_ignored(link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    links = {**SERVICE_LINKS, "CHUTES_PORT": link}
    assert Settings(**settings_from_environment(links)) == Settings()
    for name, value in links.items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 8000
    assert Settings(port=9000).port == 9000


@pytest.mark.parametrize("wrong", ["tcp", "http://10.0.0.1:8000", "10.0.0.1:8000"])
def test_an_invalid_port_is_an_error(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_PORT", wrong)
    with pytest.raises(ValidationError):
        Settings()


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
def test_loopback_addresses_are_recognized(host: str, loopback: bool) -> None:
    assert Settings(host=host).is_loopback is loopback


@pytest.mark.parametrize(
    "wrong", [{"port": 70000}, {"queue_size": -1}, {"request_timeout": 0}, {"max_body_bytes": 0}, {"log_level": "loud"}]
)
def test_values_out_of_bounds_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)
