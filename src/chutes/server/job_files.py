"""The folders that jobs write to, and the files in them that clients may fetch.

Each process has one folder in the temporary directory, with one folder for each job in it. The process holds a lock on
its folder as long as it lives. If a process is killed, the next one to start finds the folder unlocked and removes it.
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
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")  # of a folder made by `mkdtemp`
_PRIVATE = 0o700
_ATTEMPTS = 10
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # does not wait for the writer of a pipe

_MAX_FILES = 10_000  # names in a list
_MAX_CHARACTERS = 1 << 20  # of all names in a list
_MAX_ENTRIES = 100_000  # directory entries visited for a list
_UNFETCHABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and bytes that are not UTF-8


class JobFolders:
    """The folder of this process, created for its first job."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._lock: int | None = None

    def make(self, name: str) -> Path:
        """Create and return an empty folder for one job. Raise OSError if that fails."""
        if self._folder is None or not self._folder.is_dir():  # a cleanup of the temporary directory may remove it
            self.close()
            self._folder, self._lock = _create_locked()
        folder = self._folder / name
        folder.mkdir()
        return folder

    def close(self) -> None:
        """Remove the folder, then release the lock."""
        if self._folder is not None:
            remove(self._folder)
            self._folder = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _create_locked() -> tuple[Path, int | None]:
    """Create and lock a folder, and return it with the lock's file descriptor; None if locks do not work here.

    The folder has a random name and mode 0700, so other users can neither predict nor enter it. Until it is locked,
    another process that starts may take it for an abandoned one and remove it. Then the next attempt creates another.
    """
    for _ in range(_ATTEMPTS):
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        if (lock := _try_lock(folder)) is not None:
            return folder, lock
        remove(folder)
    log.warning("Folders in the temporary directory cannot be locked: job files stay there if this process is killed")
    return Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve(), None


def _try_lock(folder: Path) -> int | None:
    """Lock a folder and return the file descriptor; None if it is gone, in use, or owned by another user."""
    try:
        descriptor = os.open(folder, _FOLDER)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.fstat(descriptor)
        is_private = held.st_uid == os.geteuid() and stat.S_IMODE(held.st_mode) == _PRIVATE
        if is_private and os.path.samestat(held, os.lstat(folder)):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def remove_abandoned() -> None:
    """Remove the folders of processes that were killed."""
    try:
        with os.scandir(tempfile.gettempdir()) as entries:
            found = [Path(entry.path) for entry in entries if _NAME.fullmatch(entry.name)]
    except OSError:
        return
    for folder in found:
        if (lock := _try_lock(folder)) is not None:
            try:
                remove(folder)
                log.info("Removed the job files of a process that was killed: %s", folder)
            finally:
                os.close(lock)


def remove(folder: Path) -> None:
    """Remove a folder of any depth, as far as permissions allow, without following links."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:  # a thousand levels of folders, before Python 3.13
        subprocess.run(["rm", "-rf", "--", folder], check=False, stderr=subprocess.DEVNULL)  # noqa: S603, S607 - a folder of our own


def list_files(folder: Path) -> tuple[list[str], bool]:
    """Return the sorted names of the files that clients can fetch, and whether some were left out.

    `folder` is an absolute path without links. Names are relative to it, and links to folders are not followed.
    """
    names: list[str] = []
    characters = visited = 0
    pending = [""] if not folder.is_symlink() else []
    while pending:
        prefix = pending.pop()
        try:
            entries = os.scandir(f"{folder}/{prefix}")
        except OSError:  # removed, or not readable
            continue
        with entries:
            for entry in entries:
                visited += 1
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
                elif _is_fetchable(folder, name, entry):
                    names.append(name)
                    characters += len(name)
                if visited > _MAX_ENTRIES or len(names) > _MAX_FILES or characters > _MAX_CHARACTERS:
                    return sorted(names[:_MAX_FILES]), True
    return sorted(names), False


def _is_fetchable(folder: Path, name: str, entry: "os.DirEntry[str]") -> bool:
    if _UNFETCHABLE.search(name):
        return False
    try:
        return entry.is_file() and (not entry.is_symlink() or _resolve(folder, name) is not None)
    except OSError:  # a cycle of links
        return False


def _resolve(folder: Path, name: str) -> Path | None:
    """Return the path of a file inside `folder` with links resolved; None if it is not inside."""
    try:
        return Path(os.path.realpath(folder / name, strict=True)).relative_to(folder)
    except (OSError, ValueError):  # missing; outside, or not a valid name
        return None


def open_file(folder: Path, name: str) -> BinaryIO | None:
    """Open a regular file inside `folder`; return None if there is no such file.

    The name is resolved first and then opened part by part without following links. So it never leads outside, even if
    a job replaces a folder by a link at the same time.
    """
    if name.startswith("/") or ".." in name.split("/") or (path := _resolve(folder, name)) is None or not path.parts:
        return None
    *folders, file_name = path.parts
    try:
        descriptor = os.open(folder, _FOLDER)
        for part in folders:
            descriptor = _open_in(descriptor, part, _FOLDER)
        descriptor = _open_in(descriptor, file_name, _FILE)
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
