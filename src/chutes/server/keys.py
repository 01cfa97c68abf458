"""API keys: creation, storage and verification.

A key is 256 random bits, so no dictionary attack is possible and one round of SHA-256 suffices to store it. The file
contains only digests; a key itself is shown once, when it is created.

A change replaces the whole file, under a lock on another file beside it. So a reader sees the file before or after a
change, and a change is on the disk when the command reports it.
"""

import fcntl
import functools
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)

PREFIX = "cpk_"
_CHECK_INTERVAL = 1.0  # seconds between checks of the file, after which a deleted key stops working


@dataclass(frozen=True)
class Key:
    """One key as it is stored, without the key itself."""

    name: str
    digest: str
    created: str


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class KeyStore:
    """The keys of a file, and `extra` keys from elsewhere, such as the environment.

    A running server applies changes of the file within a second.
    """

    def __init__(self, path: Path, extra: Iterable[str] = ()) -> None:
        self.path = path.expanduser()
        self._extra = tuple(_digest(key) for key in extra)
        self._digests: tuple[str, ...] = ()
        self._version: tuple[int, int, int] | None = None
        self._next_check = 0.0

    def create(self, name: str) -> str:
        """Create a key with a unique name, and return it. Raise ValueError if the name is empty or taken."""
        if not name.strip():
            raise ValueError("The name of a key must not be empty.")
        key = PREFIX + secrets.token_urlsafe(32)
        with self._lock():
            keys = self.list()
            if any(stored.name == name for stored in keys):
                raise ValueError(f"A key named {name!r} already exists. Delete it first, or choose another name.")
            self._write([*keys, Key(name, _digest(key), datetime.now(UTC).isoformat(timespec="seconds"))])
        return key

    def list(self) -> list[Key]:
        """Return the keys of the file, oldest first. Raise ValueError if the file is malformed."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        try:
            keys = [Key(**entry) for entry in json.loads(text)["keys"]]
            for key in keys:
                bytes.fromhex(key.digest)  # fails for a digest that `verify` could not compare
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.path} is not a key file.") from None
        return keys

    def delete(self, name: str) -> bool:
        """Delete the key of this name, and return whether it existed."""
        if all(key.name != name for key in self.list()):
            return False  # without creating the file of the lock
        with self._lock():
            keys = self.list()
            remaining = [key for key in keys if key.name != name]
            if len(remaining) < len(keys):
                self._write(remaining)
        return len(remaining) < len(keys)

    def verify(self, key: str) -> bool:
        """Return whether a key is valid, in constant time with respect to the stored keys."""
        self._refresh()
        digest = _digest(key)
        is_valid = False
        for stored in (*self._extra, *self._digests):
            is_valid |= hmac.compare_digest(digest, stored)
        return is_valid

    def __bool__(self) -> bool:
        """Return whether there is any key."""
        self._refresh()
        return bool(self._extra or self._digests)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_INTERVAL
        try:
            status = self.path.stat()
        except OSError:
            self._digests, self._version = (), None
            return
        version = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._version == version:
            return
        try:
            self._digests = tuple(key.digest for key in self.list())
        except (OSError, ValueError):
            if self._version is None:
                raise
            log.exception("The API keys cannot be read; the previous ones stay valid")
        self._version = version
        for risk in self.risks():
            _warn_once(risk)

    def risks(self) -> Iterator[str]:
        """Yield a warning if the owner or mode of the file or its folder lets other users change the keys."""
        for path in (self.path, self.path.parent):
            try:
                status = path.stat()
            except OSError:
                continue
            if status.st_uid not in {0, os.geteuid()}:
                yield f"The user with id {status.st_uid} owns {path} and can add API keys. Change its owner with chown."
            # In a sticky folder, users cannot replace each other's files.
            sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
                yield f"Other users can write to {path} and can add API keys. Run `chmod go-w {path}`."

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other processes and threads from changing the file."""
        path = self.path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = path.with_name(f".{path.name}.lock")  # a file of its own, because each change replaces the key file
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, keys: Sequence[Key]) -> None:
        """Replace the file in one step, readable by its owner only, and flush it to the disk."""
        path = self.path.resolve()  # so that a link stays a link
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")  # with mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"keys": [asdict(key) for key in keys]}, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._next_check = 0.0


@functools.cache
def _warn_once(risk: str) -> None:
    log.warning("%s", risk)


def unreadable_keys(error: OSError | ValueError) -> str:
    """Return the message about a key file that cannot be read."""
    reason = str(error).rstrip(".")
    return f"The API keys cannot be read: {reason}. Move the file away, or set CHUTES_KEYS_FILE to another one."
