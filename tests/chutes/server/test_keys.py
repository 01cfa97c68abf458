import stat
from pathlib import Path

import pytest

from chutes.server import keys
from chutes.server.keys import KeyStore


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "config" / "keys.json")


def test_a_key_is_shown_once_and_kept_hashed(store: KeyStore) -> None:
    key = store.create("laptop")
    assert key.startswith("cpk_")
    assert len(key) > 40
    assert key not in store.path.read_text()
    assert [kept.name for kept in store.list()] == ["laptop"]
    assert store.verify(key)
    assert not store.verify(key[:-1])
    assert not store.verify("")


def test_the_file_is_its_owners_alone(store: KeyStore) -> None:
    store.create("laptop")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_names_are_unique_and_not_empty(store: KeyStore) -> None:
    store.create("laptop")
    with pytest.raises(ValueError, match="already a key named 'laptop'"):
        store.create("laptop")
    with pytest.raises(ValueError, match="needs a name"):
        store.create(" ")


def test_delete(store: KeyStore) -> None:
    key = store.create("laptop")
    assert store.delete("laptop")
    assert not store.delete("laptop")
    assert not store.verify(key)
    assert not store


def test_a_running_server_sees_what_the_command_line_changes(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(keys.time, "monotonic", lambda: clock)
    server = KeyStore(store.path)
    assert not server
    key = store.create("late")
    assert not server.verify(key)  # looked a moment ago
    clock += 1.5
    assert server.verify(key)
    store.delete("late")
    clock += 1.5
    assert not server.verify(key)


def test_keys_given_beside_the_file(store: KeyStore) -> None:
    both = KeyStore(store.path, given=["from-the-environment"])
    assert both.verify("from-the-environment")
    assert bool(both)


def test_a_broken_file_is_an_error_and_not_an_empty_list(store: KeyStore) -> None:
    store.path.parent.mkdir()
    store.path.write_text("{")
    with pytest.raises(ValueError, match="is not a key file"):
        store.list()


def test_the_path_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHUTES_KEYS_FILE", str(tmp_path / "elsewhere.json"))
    assert keys.default_path() == tmp_path / "elsewhere.json"


def test_odd_characters_are_only_wrong(store: KeyStore) -> None:
    store.create("laptop")
    assert not store.verify("ü\udc80\x00")


def test_a_file_that_breaks_while_the_server_runs_locks_nobody_out(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "_CHECK_EVERY", 0)
    key = store.create("laptop")
    assert store.verify(key)
    store.path.write_text("{")
    assert store.verify(key)
    assert store.verify(key)
    assert caplog.text.count("cannot be read") == 1
