import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from chutes.server import keys
from chutes.server.keys import KeyStore


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "config" / "keys.json")


def test_a_key_is_returned_once_and_stored_as_a_hash(store: KeyStore) -> None:
    key = store.create("laptop")
    assert key.startswith("cpk_")
    assert len(key) > 40
    assert key not in store.path.read_text()
    assert [kept.name for kept in store.list()] == ["laptop"]
    assert store.verify(key)
    assert not store.verify(key[:-1])
    assert not store.verify("")


def test_the_file_is_readable_by_its_owner_only(store: KeyStore) -> None:
    store.create("laptop")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_names_are_unique_and_not_empty(store: KeyStore) -> None:
    store.create("laptop")
    with pytest.raises(ValueError, match="A key named 'laptop' already exists"):
        store.create("laptop")
    with pytest.raises(ValueError, match="must not be empty"):
        store.create(" ")


def test_a_deleted_key_is_no_longer_valid(store: KeyStore) -> None:
    key = store.create("laptop")
    assert store.delete("laptop")
    assert not store.delete("laptop")
    assert not store.verify(key)
    assert not store


def test_a_running_server_applies_changes_of_the_file(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(keys.time, "monotonic", lambda: clock)
    server = KeyStore(store.path)
    assert not server
    key = store.create("late")
    assert not server.verify(key)  # the file was checked less than a second ago
    clock += 1.5
    assert server.verify(key)
    store.delete("late")
    clock += 1.5
    assert not server.verify(key)


def test_extra_keys_are_valid_too(store: KeyStore) -> None:
    both = KeyStore(store.path, extra=["from-the-environment"])
    assert both.verify("from-the-environment")
    assert bool(both)


def test_a_malformed_file_is_an_error(store: KeyStore) -> None:
    store.path.parent.mkdir()
    store.path.write_text("{")
    with pytest.raises(ValueError, match="is not a key file"):
        store.list()


@pytest.mark.parametrize("digest", [None, 1, "é"])
def test_a_file_with_another_kind_of_digest_is_malformed(store: KeyStore, digest: object) -> None:
    store.path.parent.mkdir()
    store.path.write_text(json.dumps({"keys": [{"name": "a", "digest": digest, "created": ""}]}))
    with pytest.raises(ValueError, match="is not a key file"):
        store.verify("any")


def test_keys_with_unusual_characters_are_invalid(store: KeyStore) -> None:
    store.create("laptop")
    assert not store.verify("ü\udc80\x00")


def test_keys_stay_valid_if_the_file_becomes_malformed(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "_CHECK_INTERVAL", 0)
    key = store.create("laptop")
    assert store.verify(key)
    store.path.write_text("{")
    assert store.verify(key)
    assert store.verify(key)
    assert caplog.text.count("cannot be read") == 1


WRITER = """
import sys
from pathlib import Path
from chutes.server.keys import KeyStore
path, me = Path(sys.argv[1]), sys.argv[2]
store = KeyStore(path)
sys.stdin.readline()
for number in range(5):
    store.create(f"{me}-{number}")
    assert store.delete(f"old-{me}-{number}")
"""


def test_concurrent_changes_of_the_file_are_all_kept(store: KeyStore) -> None:
    for name in range(8):
        for number in range(5):
            store.create(f"old-{name}-{number}")
    command = [sys.executable, "-c", WRITER, str(store.path)]
    writers = [subprocess.Popen([*command, str(name)], stdin=subprocess.PIPE, text=True) for name in range(8)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.communicate(timeout=120) and writer.returncode for writer in writers] == [0] * 8
    expected = {f"{name}-{number}" for name in range(8) for number in range(5)}
    assert {key.name for key in store.list()} == expected
    assert sorted(path.name for path in store.path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_change_is_on_the_disk_before_it_is_reported(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(keys.os, "fsync", lambda fd: (steps.append(stat.S_ISDIR(os.fstat(fd).st_mode)), sync(fd)))
    monkeypatch.setattr(Path, "replace", lambda *names: (steps.append("replaced"), replace(*names))[1])
    store.create("laptop")
    assert steps == [False, "replaced", True], "first the new file, then its name in the folder"


def test_a_failed_change_keeps_the_previous_keys(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store.create("laptop")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.create("phone")
    with pytest.raises(OSError, match="No space"):
        store.delete("laptop")
    assert [kept.name for kept in store.list()] == ["laptop"]
    assert store.verify(key)
    assert not list(store.path.parent.glob(".keys-*"))


def test_a_link_to_the_file_stays_a_link(store: KeyStore, tmp_path: Path) -> None:
    store.create("laptop")
    link = tmp_path / "link.json"
    link.symlink_to(store.path)
    KeyStore(link).create("phone")
    assert link.is_symlink()
    assert [key.name for key in store.list()] == ["laptop", "phone"]


def test_deleting_from_a_missing_file_creates_nothing(store: KeyStore) -> None:
    assert not store.delete("laptop")
    assert not store.path.parent.exists()


@pytest.mark.parametrize(
    ("what", "mode", "risky"),
    [
        ("file", 0o600, False),
        ("file", 0o644, False),
        ("file", 0o620, True),
        ("file", 0o602, True),
        ("folder", 0o755, False),
        ("folder", 0o775, True),
        ("folder", 0o707, True),
        ("folder", 0o1777, False),
    ],
)
def test_a_file_that_others_can_write_is_reported_once(
    what: str, mode: int, risky: bool, store: KeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    key = store.create("laptop")
    path = store.path if what == "file" else store.path.parent
    path.chmod(mode)
    for _ in range(2):
        assert KeyStore(store.path).verify(key)
    assert caplog.text.count(f"can write to {path} ") == risky


def test_a_file_of_another_user_is_reported(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = store.create("laptop")
    owner = os.geteuid()
    if owner == 0:  # only root can change the owner of a file
        owner = 4711
        os.chown(store.path, owner, -1)
    else:
        monkeypatch.setattr(keys.os, "geteuid", lambda: owner + 1)
    assert KeyStore(store.path).verify(key)
    assert f"The user with id {owner} owns {store.path} " in caplog.text
