"""Logs: whatever anybody logs, in one format, each line with the id of the request it was written for.

Everything goes through the standard library's logging (authors, libraries, uvicorn): for people on a terminal as
structlog renders it, as one JSON object per line otherwise. Values ride along as `extra={...}`.
"""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

request_id: ContextVar[str] = ContextVar("request_id", default="")

_QUIET = {
    "uvicorn.error": logging.WARNING,  # the runtime says itself where it listens and when it stops
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "watchfiles": logging.WARNING,
}


_INTERNAL = {"color_message", "_logger", "_name"}  # left in a record by uvicorn and by structlog
_NOT_EXTRA = _INTERNAL | vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}

_encode = json.JSONEncoder(default=str).encode


class JsonLines(logging.Formatter):
    """One JSON object per line. structlog could render it too, at several times the cost, once per request."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for one record."""
        line: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name}
        line |= {key: value for key, value in vars(record).items() if key not in _NOT_EXTRA}
        if current := request_id.get():
            line["request_id"] = current
        line["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        if isinstance(record.msg, dict):  # structlog's
            line |= record.msg
            line["message"] = line.pop("event", "")
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


def _add_request_id(_: object, __: str, event: EventDict) -> EventDict:
    for internal in _INTERNAL:
        event.pop(internal, None)
    if current := request_id.get():
        event["request_id"] = current
    return event


def _for_people(*, colors: bool) -> logging.Formatter:
    plain = structlog.dev.plain_traceback  # the rich one would print local variables: prompts, keys
    steps: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_request_id,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
    ]
    return structlog.stdlib.ProcessorFormatter(processors=steps)


def configure(
    level: str = "info",
    style: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Send all logging from `level` up to the stream (stderr)."""
    stream = stream or sys.stderr
    terminal = stream.isatty()
    as_json = style == "json" or (style == "auto" and not terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if as_json else _for_people(colors=terminal))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name, at_least in _QUIET.items():
        logging.getLogger(name).setLevel(max(at_least, root.level))
    logging.captureWarnings(capture=True)
    structlog.configure(  # for authors who use structlog themselves
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
