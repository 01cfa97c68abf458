import io
import json
import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator

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


def test_without_a_terminal_each_line_is_a_json_object(stream: io.StringIO) -> None:
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


def test_a_terminal_gets_the_console_format(stream: io.StringIO) -> None:
    logs.configure(style="console", stream=stream)
    secret = "a local variable"  # noqa: F841
    try:
        int("oops")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert "ValueError: invalid literal" in stream.getvalue()
    assert "a local variable" not in stream.getvalue().replace('secret = "a local variable"', "")
    assert not stream.getvalue().startswith("{")


def test_levels_apply_and_noisy_libraries_are_quiet(stream: io.StringIO) -> None:
    logs.configure("warning", stream=stream)
    logging.getLogger("x").info("not shown")
    logging.getLogger("httpx").warning("shown")
    logs.configure("debug", stream=stream)
    logging.getLogger("httpx").info("still not shown")
    logging.getLogger("x").debug("shown too")
    assert [line["message"] for line in lines(stream)] == ["shown", "shown too"]


def test_warnings_and_structlog_use_the_same_format(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
    structlog.get_logger("author").info("by structlog", steps=4)
    first, second = lines(stream)
    assert "old name" in str(first["message"])
    assert (second["message"], second["steps"], second["logger"]) == ("by structlog", 4, "author")
    assert "_logger" not in second


def test_text_without_a_utf8_form_is_logged(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    logging.getLogger("x").info("lone %s", "\ud800")
    assert lines(stream)[0]["message"] == "lone \ud800"


# C0, DEL, C1, line and paragraph separators, bidi controls, invisible characters, a lone surrogate.
HOSTILE = [chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F))]
HOSTILE += [
    chr(code) for code in (*range(0x2066, 0x206A), 0x61C, 0x200E, 0x200F, 0x200B, 0xFEFF, 0xAD, 0xE0041, 0xD800)
]
FORGED = "\n12:00:00 [info     ] forged                         [audit]"
COLOURS = re.compile(r"\x1b\[\d+m")


class Odd:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<{self.text}>"


def raising(text: str) -> None:
    error = ExceptionGroup(text, [ValueError(text)])
    error.add_note(text)
    error.__cause__ = KeyError(text)
    logging.getLogger("x").error("failed", exc_info=error)


def warned(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(text, UserWarning, stacklevel=1)


WRITERS: dict[str, Callable[[str], object]] = {
    "message": lambda text: logging.getLogger("x").info("GET /%s", text),
    "message without arguments": lambda text: logging.getLogger("x").info(text),
    "logger": lambda text: logging.getLogger(f"x{text}").info("hello"),
    "extra": lambda text: logging.getLogger("x").info("hello", extra={"path": text}),
    "extra with spaces": lambda text: logging.getLogger("x").info("hello", extra={"path": f"a = '{text}"}),
    "name of an extra": lambda text: logging.getLogger("x").info("hello", extra={f"n{text}": 1}),
    "nested": lambda text: logging.getLogger("x").info(
        "hello", extra={"v": [{"k": text}, text.encode("utf-8", "replace")]}
    ),
    "repr": lambda text: logging.getLogger("x").info("hello", extra={"v": Odd(text)}),
    "exception": raising,
    "stack": lambda text: logging.getLogger("x").info(text, stack_info=True),
    "uvicorn": lambda text: logging.getLogger("uvicorn.error").warning(
        "Invalid %s", text, extra={"color_message": text}
    ),
    "warning": warned,
    "structlog": lambda text: structlog.get_logger(f"s{text}").info(text, value=text, exception=text),
    "structlog's stack": lambda text: structlog.get_logger("s").info(text, stack=text, **{text: text}),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
def test_no_control_character_reaches_the_console(
    terminal: bool, writer: Callable[[str], object], stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    logs.configure(style="console", stream=stream)
    for character in HOSTILE:
        stream.seek(0)
        stream.truncate()
        writer(f"a{character}b{FORGED}")
        shown = COLOURS.sub("", stream.getvalue()) if terminal else stream.getvalue()
        assert shown.endswith("\n")
        first, *rest = shown.removesuffix("\n").split("\n")
        assert re.match(r"\d\d:\d\d:\d\d \[(info|warning|error) ", first)
        assert all(line.startswith("    ") for line in rest), "only the record itself begins a line"
        unescaped = {c for c in shown if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
        assert not unescaped, (hex(ord(character)), shown)


def test_the_request_id_is_escaped(stream: io.StringIO) -> None:
    logs.configure(style="console", stream=stream)
    token = logs.request_id.set(f"r-1{FORGED}\x1b[2J")
    logging.getLogger("x").info("hello")
    logs.request_id.reset(token)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_escaped_text_is_readable(stream: io.StringIO) -> None:
    logs.configure(style="console", stream=stream)
    log = logging.getLogger("x")
    log.info("a\x1b[31m\n\u202eb 家\u3000と 👩\u200d🚀", extra={"path": "/a\n\x1b b", "n": 3})
    line = stream.getvalue()
    assert r"a\x1b[31m\n\u202eb" + " 家\u3000と 👩\u200d🚀" in line
    assert r"path='/a\n\x1b b'" in line
    assert "n=3" in line


def test_colors_of_the_format_are_kept_on_a_terminal(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    logs.configure(stream=stream)
    logging.getLogger("x").warning("careful", extra={"gb": 3})
    assert "\x1b[33m" in stream.getvalue()
    assert COLOURS.sub("", stream.getvalue()).rstrip().endswith("gb=3")
