"""API keys: made, kept and checked.

A key is 256 random bits, so one round of SHA-256 is enough to keep it by: there is no dictionary to try. Only the
digest is stored; the key itself is shown once, when it is made.

Changes are made one at a time, under a lock on a file beside the keys, and replace the whole file: a reader sees it
before or after a change, and a change that was reported is on the disk.
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
_CHECK_EVERY = 1.0  # seconds between looks at the file, so that a deleted key soon stops working


@dataclass(frozen=True)
class Key:
    """One key as it is kept: everything but the key itself."""

    name: str
    digest: str
    created: str


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class KeyStore:
    """The keys of a file, and those given beside it (from the environment).

    Changes to the file are seen while the server runs: within a second a new key works and a deleted one does not.
    """

    def __init__(self, path: Path, given: Iterable[str] = ()) -> None:
        self.path = path.expanduser()
        self._given = tuple(_digest(key) for key in given)
        self._digests: tuple[str, ...] = ()
        self._seen: tuple[int, int, int] | None = None
        self._look_again = 0.0

    def create(self, name: str) -> str:
        """A new key under a name; the only time that it is shown. ValueError if the name is empty or taken."""
        if not name.strip():
            raise ValueError("A key needs a name")
        plain = PREFIX + secrets.token_urlsafe(32)
        with self._lock():
            keys = self.list()
            if any(key.name == name for key in keys):
                raise ValueError(f"There is already a key named {name!r}: delete it first, or choose another name")
            self._write([*keys, Key(name, _digest(plain), datetime.now(UTC).isoformat(timespec="seconds"))])
        return plain

    def list(self) -> list[Key]:
        """The keys of the file, oldest first. ValueError if the file cannot be understood."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        try:
            return [Key(**entry) for entry in json.loads(text)["keys"]]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.path} is not a key file") from None

    def delete(self, name: str) -> bool:
        """Take a key away; whether there was one."""
        if all(key.name != name for key in self.list()):
            return False  # without a lock, whose file might have to be made
        with self._lock():
            keys = self.list()
            left = [key for key in keys if key.name != name]
            if len(left) < len(keys):
                self._write(left)
        return len(left) < len(keys)

    def verify(self, key: str) -> bool:
        """Whether this is one of the keys, in a time that does not tell which or how nearly."""
        self._refresh()
        digest = _digest(key)
        known = False
        for kept in (*self._given, *self._digests):
            known |= hmac.compare_digest(digest, kept)
        return known

    def __bool__(self) -> bool:
        """Whether there is any key at all."""
        self._refresh()
        return bool(self._given or self._digests)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now < self._look_again:
            return
        self._look_again = now + _CHECK_EVERY
        try:
            status = self.path.stat()
        except OSError:
            self._digests, self._seen = (), None
            return
        version = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._seen == version:
            return
        try:
            self._digests = tuple(key.digest for key in self.list())
        except (OSError, ValueError):
            if self._seen is None:
                raise
            log.exception("The keys cannot be read; those known until now stay valid")
        self._seen = version
        for risk in self.risks():
            _warn_once(risk)

    def risks(self) -> Iterator[str]:
        """Say what lets other users of this machine change the keys: the file's or its folder's owner or mode."""
        for path in (self.path, self.path.parent):
            try:
                status = path.stat()
            except OSError:
                continue
            if status.st_uid not in {0, os.geteuid()}:
                yield f"The user with id {status.st_uid} owns {path} and could add API keys: chown it"
            sticky = (
                stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
            )  # nobody replaces others' files there
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
                yield f"Other users may write to {path} and could add API keys: chmod go-w {path}"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other processes and threads from changing the file meanwhile."""
        path = self.path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = path.with_name(f".{path.name}.lock")  # a file of its own: the other is replaced by each change
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, keys: Sequence[Key]) -> None:
        """Replace the file in one step, readable by its owner alone; it is on the disk afterwards."""
        path = self.path.resolve()  # a link stays one
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")  # mkstemp makes it 0600
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
        self._look_again = 0.0


@functools.cache
def _warn_once(risk: str) -> None:
    log.warning("%s", risk)
