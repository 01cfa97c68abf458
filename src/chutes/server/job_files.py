"""The folders that jobs write to, and the files in them that clients may fetch.

Each process has one folder in the temporary directory, with one folder for each job in it. The process holds a lock on
its folder while it lives. The lock of a killed process is gone, and whoever starts next removes its folder.
"""

import fcntl
import logging
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

_PREFIX = "chutes-jobs-"
_OURS = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")  # as `mkdtemp` names them
_PRIVATE = 0o700
_ATTEMPTS = 10
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a pipe would wait for its writer

_MOST_FILES = 10_000  # names that are listed
_MOST_CHARACTERS = 1 << 20  # of all these names
_MOST_ENTRIES = 100_000  # that are looked at
_UNFETCHABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and bytes that are not UTF-8


class JobFolders:
    """The folder of this process, made when its first job begins."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._lock: int | None = None

    def make(self, name: str) -> Path:
        """Make and return an empty folder for one job. OSError."""
        if self._folder is None or not self._folder.is_dir():  # somebody may tidy the temporary directory
            self.close()
            self._folder, self._lock = _claim()
        folder = self._folder / name
        folder.mkdir()
        return folder

    def close(self) -> None:
        """Remove all of it, then give the lock back."""
        if self._folder is not None:
            remove(self._folder)
            self._folder = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _claim() -> tuple[Path, int | None]:
    """Make a folder and lock it.

    The folder has a random name and mode 0700, so nobody else can prepare or enter it. Until it is locked another
    process that starts may take it for an abandoned one; then it is lost, and the next attempt makes another.
    """
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        if (lock := _try_lock(folder)) is not None:
            return folder, lock
        remove(folder)
    log.warning("The temporary directory cannot be locked: if this process is killed, its job files stay there")
    return Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve(), None


def _try_lock(folder: Path) -> int | None:
    """Return a descriptor that holds the lock of this folder; None if it is gone, not ours, or in use."""
    try:
        descriptor = os.open(folder, _FOLDER)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.fstat(descriptor)
        ours = held.st_uid == os.geteuid() and stat.S_IMODE(held.st_mode) == _PRIVATE
        if ours and os.path.samestat(held, os.lstat(folder)):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def remove_abandoned() -> None:
    """Remove the folders of processes that did not end by themselves."""
    try:
        with os.scandir(tempfile.gettempdir()) as entries:
            found = [Path(entry.path) for entry in entries if _OURS.fullmatch(entry.name)]
    except OSError:
        return
    for folder in found:
        if (lock := _try_lock(folder)) is not None:
            try:
                remove(folder)
                log.info("Removed the job files of an earlier process: %s", folder)
            finally:
                os.close(lock)


def remove(folder: Path) -> None:
    """Remove a folder of any depth, as far as permissions allow; links in it are not followed."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:  # a thousand levels, before Python 3.13
        subprocess.run(["rm", "-rf", "--", folder], check=False, stderr=subprocess.DEVNULL)  # noqa: S603, S607 - ours


def list_files(folder: Path) -> tuple[list[str], bool]:
    """Return the names of the files that clients can fetch, sorted, and whether there are more than are listed.

    Names are relative to `folder`, which is an absolute path without links. Links to folders are not followed.
    """
    names: list[str] = []
    characters = looked_at = 0
    pending = [""] if not folder.is_symlink() else []
    while pending:
        prefix = pending.pop()
        try:
            entries = os.scandir(f"{folder}/{prefix}")
        except OSError:  # gone, or not for us
            continue
        with entries:
            for entry in entries:
                looked_at += 1
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
                elif _is_fetchable(folder, name, entry):
                    names.append(name)
                    characters += len(name)
                if looked_at > _MOST_ENTRIES or len(names) > _MOST_FILES or characters > _MOST_CHARACTERS:
                    return sorted(names[:_MOST_FILES]), True
    return sorted(names), False


def _is_fetchable(folder: Path, name: str, entry: "os.DirEntry[str]") -> bool:
    if _UNFETCHABLE.search(name):
        return False
    try:
        return entry.is_file() and (not entry.is_symlink() or _resolve(folder, name) is not None)
    except OSError:  # links that lead in a circle
        return False


def _resolve(folder: Path, name: str) -> Path | None:
    """Where in `folder` the file is, without links; None if it is not in there."""
    try:
        return Path(os.path.realpath(folder / name, strict=True)).relative_to(folder)
    except (OSError, ValueError):  # not there; elsewhere, or no name at all
        return None


def open_file(folder: Path, name: str) -> BinaryIO | None:
    """Open a regular file inside `folder`; None if there is none of this name.

    The name is resolved first, and then opened part by part without following links, so that it never leads outside,
    even if something is replaced by a link in this moment.
    """
    if name.startswith("/") or ".." in name.split("/") or (path := _resolve(folder, name)) is None or not path.parts:
        return None
    *folders, last = path.parts
    try:
        descriptor = os.open(folder, _FOLDER)
        for part in folders:
            descriptor = _open_in(descriptor, part, _FOLDER)
        descriptor = _open_in(descriptor, last, _FILE)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def _open_in(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    finally:
        os.close(folder)
