"""API keys: made, kept and checked.

A key is 256 random bits, so one round of SHA-256 is enough to keep it by: there is no dictionary to try. Only the
digest is stored; the key itself is shown once, when it is made.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Sequence
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


def default_path() -> Path:
    """The key file: `CHUTES_KEYS_FILE`, else `~/.chutes/keys.json`."""
    return Path(os.environ.get("CHUTES_KEYS_FILE") or "~/.chutes/keys.json").expanduser()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class KeyStore:
    """The keys of a file, and those given beside it (from the environment).

    Changes to the file are seen while the server runs: within a second a new key works and a deleted one does not.
    """

    def __init__(self, path: Path | None = None, given: Iterable[str] = ()) -> None:
        self.path = (path or default_path()).expanduser()
        self._given = tuple(_digest(key) for key in given)
        self._digests: tuple[str, ...] = ()
        self._seen: tuple[int, int] | None = None
        self._look_again = 0.0

    def create(self, name: str) -> str:
        """A new key under a name; the only time that it is shown. ValueError if the name is empty or taken."""
        if not name.strip():
            raise ValueError("A key needs a name")
        keys = self.list()
        if any(key.name == name for key in keys):
            raise ValueError(f"There is already a key named {name!r}: delete it first, or choose another name")
        plain = PREFIX + secrets.token_urlsafe(32)
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
        keys = self.list()
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            return False
        self._write(left)
        return True

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
            stat = self.path.stat()
        except OSError:
            self._digests, self._seen = (), None
            return
        if self._seen == (stat.st_mtime_ns, stat.st_ino):
            return
        try:
            self._digests = tuple(key.digest for key in self.list())
        except (OSError, ValueError):
            if self._seen is None:
                raise
            log.exception("The keys cannot be read; those known until now stay valid")
        self._seen = (stat.st_mtime_ns, stat.st_ino)

    def _write(self, keys: Sequence[Key]) -> None:
        """Replace the file in one step, readable by its owner alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".keys-")  # mkstemp makes it 0600
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"keys": [asdict(key) for key in keys]}, file, indent=2)
        Path(temporary).replace(self.path)
        self._look_again = 0.0
