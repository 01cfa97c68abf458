"""The log file of a replica: one JSON object per line, including what the author prints.

It is in the folder of Ray Serve's own log files.
"""

import io
import logging
import re
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from chutes.server import logs

_MAX_BYTES = 20_000_000  # before the file is rotated; one older file is kept
_MAX_LINE = 10_000  # characters


class _LoggingStdout(io.TextIOBase):
    """A stdout that logs each line. A carriage return ends a line too, so each state of a progress bar is logged."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._log = logging.getLogger("print")
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)
        if len(self._rest) > _MAX_LINE:
            lines, self._rest = [*lines, self._rest], ""
        for line in lines:
            if line.strip():
                self._log.info("%s", line)
        return len(text)


def log_folder() -> Path:
    """Return the folder of the log files on this node."""
    import ray

    return Path(ray._private.worker.global_worker.node.get_logs_dir_path()) / "serve"  # noqa: SLF001 - no public API


def log_name(slug: str, replica_id: str) -> str:
    """Return the name of a replica's log file. `*` as the id gives a pattern for all replicas."""
    return f"chutes_{slug}_{replica_id}.jsonl"


def log_to_file(slug: str, replica_id: str, level: str) -> None:
    """Redirect all logging and everything printed in this process to the replica's log file."""
    logs.configure(level, "json")
    formatter = logging.getLogger().handlers[0].formatter
    path = log_folder() / log_name(slug, replica_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(formatter)
    logging.getLogger().handlers = [handler]
    sys.stdout = _LoggingStdout()
