"""Logs: whatever anybody logs, in one format, each line with the id of the request it was written for.

Everything goes through the standard library's logging (authors, libraries, uvicorn): for people on a terminal as
structlog renders it, as one JSON object per line otherwise. Values ride along as `extra={...}`.

Messages and values may hold what a client sent. Both formats escape control characters, so that a record is one line
that no client can break, colour or forge; a traceback follows it, indented.
"""

import io
import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from chutes._text import printable, printable_lines

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
        line["timestamp"] = f"{_second(int(record.created))}.{int(record.msecs):03d}+00:00"
        if isinstance(record.msg, dict):  # structlog's
            line |= record.msg
            line["message"] = line.pop("event", "")
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


@lru_cache(maxsize=1)
def _second(since_epoch: int) -> str:
    return datetime.fromtimestamp(since_epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _add_request_id(_: object, __: str, event: EventDict) -> EventDict:
    for internal in _INTERNAL:
        event.pop(internal, None)
    if current := request_id.get():
        event["request_id"] = current
    return event


_COLUMNS = {"timestamp", "level", "event", "logger", "logger_name"}  # what the renderer prints as it is
_BLOCKS = {"stack", "exception"}  # what it prints below the line
_INDENT = "    "


class _Shown:
    """A value that the renderer prints as this text, without quotes of its own."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _escape(_: object, __: str, event: EventDict) -> EventDict:
    """Escape every name, text and value of a record; `exc_info` is left to `_traceback`."""
    if isinstance(event.get("stack_info"), str):
        event["stack"] = event.pop("stack_info")
    return {printable(name): _escape_value(name, value) for name, value in event.items()}


def _escape_value(name: str, value: Any) -> Any:
    if name == "exc_info":
        return value
    if name in _COLUMNS:
        return printable(str(value).rstrip("\r\n"))
    if name in _BLOCKS:
        return printable_lines(str(value), _INDENT)
    if isinstance(value, str) and value.isprintable():
        return value
    return _Shown(printable(repr(value)))


def _traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    """Print a traceback below its line. Rich's would print local variables: prompts, keys."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write("\n" + printable_lines(text.getvalue().strip("\n"), _INDENT))


def _for_people(*, colors: bool) -> logging.Formatter:
    steps: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_request_id,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _escape,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_traceback),
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
