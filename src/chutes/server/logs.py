"""Log formats: structlog's console format on a terminal, otherwise one JSON object per line.

All records (of authors, libraries and uvicorn) go through the standard library's logging. Each gets the id of the
request that it belongs to, and further values with `extra={...}`.

Messages and values may contain client input. Both formats escape control characters, so no client can break, color or
forge a line. A traceback follows its line, indented.
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
    "uvicorn.error": logging.WARNING,  # the server itself logs where it listens and when it stops
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "watchfiles": logging.WARNING,
}


_INTERNAL = {"color_message", "_logger", "_name"}  # attributes of uvicorn and structlog
_NOT_EXTRA = _INTERNAL | vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}

_encode = json.JSONEncoder(default=str).encode


class JsonFormatter(logging.Formatter):
    """A formatter that writes a record as one JSON object, in a fraction of the time that structlog takes."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for one record."""
        line: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name}
        line |= {key: value for key, value in vars(record).items() if key not in _NOT_EXTRA}
        if current := request_id.get():
            line["request_id"] = current
        line["timestamp"] = f"{_format_second(int(record.created))}.{int(record.msecs):03d}+00:00"
        if isinstance(record.msg, dict):  # from structlog
            line |= record.msg
            line["message"] = line.pop("event", "")
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line)


@lru_cache(maxsize=1)
def _format_second(since_epoch: int) -> str:
    return datetime.fromtimestamp(since_epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _add_request_id(_: object, __: str, event: EventDict) -> EventDict:
    for internal in _INTERNAL:
        event.pop(internal, None)
    if current := request_id.get():
        event["request_id"] = current
    return event


_COLUMNS = {"timestamp", "level", "event", "logger", "logger_name"}  # printed by the renderer without quotes
_BLOCKS = {"stack", "exception"}  # printed below the line
_INDENT = "    "


class _Verbatim:
    """A value that the renderer prints as this text, without adding quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _escape(_: object, __: str, event: EventDict) -> EventDict:
    """Escape every name and value of a record, except `exc_info`, which `_traceback` escapes."""
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
    return _Verbatim(printable(repr(value)))


def _traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    """Print a traceback below its line. Rich would print local variables, such as prompts and keys."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write("\n" + printable_lines(text.getvalue().strip("\n"), _INDENT))


def _console_formatter(*, colors: bool) -> logging.Formatter:
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
    """Log all records from `level` up to the stream, which is stderr by default."""
    stream = stream or sys.stderr
    is_terminal = stream.isatty()
    as_json = style == "json" or (style == "auto" and not is_terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else _console_formatter(colors=is_terminal))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name, minimum in _QUIET.items():
        logging.getLogger(name).setLevel(max(minimum, root.level))
    logging.captureWarnings(capture=True)
    structlog.configure(  # for authors who use structlog
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
