import re
from pathlib import Path

import pytest

from chutes import exception
from chutes.server.settings import Settings
from imagegen.settings import Settings as ImageSettings

DOCS = Path(__file__).parents[2] / "docs"
HTTP = (DOCS / "http.md").read_text("utf-8")
ELSEWHERE = {  # read by the compose file, by the SDK, and by tests
    *("CHUTES_PUBLISH", "CHUTES_PROXY_PUBLISH", "CHUTES_METRICS_KEY", "CHUTES_STOP_GRACE"),
    *("CHUTES_DEV_MODE", "CHUTES_EXECUTION_CONTEXT", "CHUTES_TEST_CLEAN"),
}


def http_errors(base: type[exception.ChutesError]) -> list[type[exception.ChutesError]]:
    return [error for each in base.__subclasses__() for error in (each, *http_errors(each))]


def test_every_error_is_in_the_table_with_its_status() -> None:
    table = HTTP.partition("## Errors")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")]
    listed = {
        (status, code)
        for numbers, codes in rows
        for status in re.findall(r"\d+", numbers)
        for code in re.findall(r"`(\w+)`", codes)
    }
    errors = [error for error in http_errors(exception.ChutesError) if error.__module__ == exception.__name__]
    assert {(str(error.status), error.code) for error in errors} - listed == set()


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_every_variable_is_a_setting(page: Path) -> None:
    text = page.read_text("utf-8")
    settings = {f"CHUTES_{name.upper()}" for name in Settings.model_fields}
    settings |= {f"IMAGEGEN_{name.upper()}" for name in ImageSettings.model_fields}
    named = set(re.findall(r"\b((?:CHUTES|IMAGEGEN)_[A-Z_]*[A-Z])\b", text))
    assert named - settings - ELSEWHERE == set()


def test_defaults_are_those_of_the_settings() -> None:
    named = re.findall(r"`CHUTES_([A-Z_]+)` \(([\d ]+)(s|MiB)?\)", HTTP)
    assert len(named) > 5
    for name, number, unit in named:
        default = Settings.model_fields[name.lower()].default
        assert float(number.replace(" ", "")) * (1024 * 1024 if unit == "MiB" else 1) == default, name


def test_the_example_of_a_full_queue_has_the_message_of_the_code() -> None:
    assert f'{{"detail": "{exception.QueueFull.message}",\n "code": "{exception.QueueFull.code}"}}' in HTTP
