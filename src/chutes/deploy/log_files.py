"""Where a replica logs: a file of its own beside Ray's, one JSON object per line, what the author prints included."""

import io
import logging
import re
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from chutes.server import logs

_LOG_BYTES = 20_000_000  # and as much again in the file before
_LONGEST = 10_000  # characters of a line


class _Prints(io.TextIOBase):
    """Stands in for stdout: whole lines go to the log, each state of a progress bar as one."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._log = logging.getLogger("print")
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)
        if len(self._rest) > _LONGEST:
            lines, self._rest = [*lines, self._rest], ""
        for line in lines:
            if line.strip():
                self._log.info("%s", line)
        return len(text)


def log_folder() -> Path:
    """Where the replicas of this node log."""
    import ray

    return Path(ray._private.worker.global_worker.node.get_logs_dir_path()) / "serve"  # noqa: SLF001 - no public way


def log_name(slug: str, replica_id: str) -> str:
    """A replica's own log file."""
    return f"chutes_{slug}_{replica_id}.jsonl"


def log_to_file(slug: str, replica_id: str, level: str) -> None:
    """Send all logging, and what is printed, to the replica's own file, one JSON object per line."""
    logs.configure(level, "json")
    formatter = logging.getLogger().handlers[0].formatter
    path = log_folder() / log_name(slug, replica_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(formatter)
    logging.getLogger().handlers = [handler]
    sys.stdout = _Prints()
