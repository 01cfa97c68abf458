import socket
from pathlib import Path

import pytest

from chutes.chute import Chute
from chutes.exception import AddressUnavailable, InsecureSettings, LoadError
from chutes.server import Settings, serve
from chutes.server.process import bind

# The tests in tests/promises check how real processes end.


def test_bind_reserves_the_port_without_listening() -> None:
    with bind("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        held.listen()
        with pytest.raises(AddressUnavailable, match=f"Cannot listen on 127.0.0.1:{port}: Address already in use"):
            bind("127.0.0.1", port)


def test_the_second_process_to_listen_on_a_port_bound_twice_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chutes.server.logs.configure", lambda *_: None)
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        bound = bind("127.0.0.1", port)  # neither socket listens yet
        monkeypatch.setattr("chutes.server.process.bind", lambda *_: bound)
        first.listen()
        chute = Chute(username="me", name="late", image="none")
        with pytest.raises(AddressUnavailable, match=f"Cannot listen on 127.0.0.1:{port}: Address already in use"):
            serve(chute, Settings(port=port, keys_file=tmp_path / "keys.json"))


def test_bind_accepts_names_and_ipv6_addresses() -> None:
    with bind("localhost", 0) as held:
        assert held.getsockname()[0] in {"127.0.0.1", "::1"}
    with bind("::1", 0) as held:
        assert held.family == socket.AF_INET6


def test_a_foreign_address_is_unavailable() -> None:
    with pytest.raises(AddressUnavailable, match="Cannot listen on"):
        bind("203.0.113.9", 0)
    with pytest.raises(AddressUnavailable, match="Cannot listen on"):
        bind("no-such-host.invalid", 0)


def test_errors_before_the_start_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chutes.server.logs.configure", lambda *_: None)
    with pytest.raises(LoadError, match=r"missing\.py"):
        serve(str(tmp_path / "missing.py"), Settings(port=0, keys_file=tmp_path / "keys.json"))
    with pytest.raises(InsecureSettings, match="--no-auth"):
        serve("x", Settings(port=0, host="0.0.0.0", keys_file=tmp_path / "keys.json"))


def test_a_misspelt_setting_is_logged_once_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("chutes.server.logs.configure", lambda *_: None)
    monkeypatch.setenv("CHUTES_QUEUESIZE", "3")
    with pytest.raises(InsecureSettings):
        serve("present", Settings(port=0, host="0.0.0.0", keys_file=tmp_path / "keys.json"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["CHUTES_QUEUESIZE is not a setting and has no effect. Did you mean CHUTES_QUEUE_SIZE?"]
