"""The results of benchmarks, and the page that shows them."""

import json
from pathlib import Path

import pytest

from benchmarks.flux import page
from benchmarks.results import RESULTS, replace_marked


def test_the_performance_page_shows_the_results_on_disk() -> None:
    text = page.PAGE.read_text("utf-8")
    assert page.render(text, page.read()) == text, "run python -m benchmarks.flux.page"


@pytest.mark.parametrize("path", sorted(RESULTS.iterdir()), ids=lambda path: path.name)
def test_a_result_says_its_commit_command_and_machine(path: Path) -> None:
    result = json.loads(path.read_text("utf-8").splitlines()[0] if path.suffix == ".jsonl" else path.read_text("utf-8"))
    for run in result.get("runs", {"": result}).values():
        assert all(run[key] for key in ("when", "commit", "command", "machine"))


def test_a_page_without_markers_is_rejected() -> None:
    with pytest.raises(ValueError, match="begin steps"):
        replace_marked("# Performance", "steps", "")
