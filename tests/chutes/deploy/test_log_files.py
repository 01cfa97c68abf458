import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chutes.deploy import log_files


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)


def test_logging_and_prints_go_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "log_folder", lambda: tmp_path)
    log_files.log_to_file("slug", "r1", "info")
    logging.getLogger("author").warning("logged", extra={"number": 7})
    print("half a ", end="")
    print("line\nanother\n\n", end="")
    lines = [json.loads(line) for line in (tmp_path / log_files.log_name("slug", "r1")).read_text().splitlines()]
    assert [(line["message"], line["logger"]) for line in lines] == [
        ("logged", "author"),
        ("half a line", "print"),
        ("another", "print"),
    ]
    assert lines[0]["number"] == 7


def test_a_long_line_is_logged_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    prints = log_files._LoggingStdout()
    with caplog.at_level("INFO", logger="print"):
        for done in range(3):
            prints.write(f"\r{done} of 3")
        prints.write("x" * 20_000)
    assert [record.message[:6] for record in caplog.records] == ["0 of 3", "1 of 3", "2 of 3"]
    assert len(caplog.records[-1].message) > 20_000
    assert prints.encoding == "utf-8"
    assert not prints.isatty()
