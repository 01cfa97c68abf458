import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from chutes.server import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream, and logging put back as it was afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_json_object_per_line_when_nobody_watches(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    token = logs.request_id.set("r-1")
    logging.getLogger("my.chute").info("loaded %s\nin two lines", "it", extra={"gb": 3})
    logs.request_id.reset(token)
    logging.getLogger("my.chute").warning("later")
    first, second = lines(stream)
    assert first["message"] == "loaded it\nin two lines"
    assert (first["level"], first["logger"], first["gb"]) == ("info", "my.chute", 3)
    assert first["request_id"] == "r-1"
    assert str(first["timestamp"]).endswith("+00:00")
    assert "request_id" not in second


def test_a_traceback_stays_on_its_line(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    try:
        int("no such weights")
    except ValueError:
        logging.getLogger("x").exception("load failed")
    (line,) = lines(stream)
    assert "no such weights" in str(line["exception"])


def test_for_people_on_a_terminal(stream: io.StringIO) -> None:
    logs.configure(style="console", stream=stream)
    secret = "a local variable"  # noqa: F841
    try:
        int("oops")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert "ValueError: invalid literal" in stream.getvalue()
    assert "a local variable" not in stream.getvalue().replace('secret = "a local variable"', "")
    assert not stream.getvalue().startswith("{")


def test_levels_and_noisy_libraries(stream: io.StringIO) -> None:
    logs.configure("warning", stream=stream)
    logging.getLogger("x").info("not shown")
    logging.getLogger("httpx").warning("shown")
    logs.configure("debug", stream=stream)
    logging.getLogger("httpx").info("still not shown")
    logging.getLogger("x").debug("shown too")
    assert [line["message"] for line in lines(stream)] == ["shown", "shown too"]


def test_warnings_and_structlog_come_the_same_way(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
    structlog.get_logger("author").info("by structlog", steps=4)
    first, second = lines(stream)
    assert "old name" in str(first["message"])
    assert (second["message"], second["steps"], second["logger"]) == ("by structlog", 4, "author")
    assert "_logger" not in second


def test_text_that_has_no_utf8_is_still_a_line(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    logging.getLogger("x").info("lone %s", "\ud800")
    assert lines(stream)[0]["message"] == "lone \ud800"
