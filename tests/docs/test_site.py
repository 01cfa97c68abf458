import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
_IN_STYLES = re.compile(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//[^)\"';]*")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    return folder


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    assert [tag for page in pages for tag in _LOADED.findall(page.read_text("utf-8"))] == []
    assert [url for sheet in site.rglob("*.css") for url in _IN_STYLES.findall(sheet.read_text("utf-8"))] == []


def test_the_search_index_is_part_of_the_site(site: Path) -> None:
    assert "CHUTES_QUEUE_SIZE" in (site / "search" / "search_index.json").read_text("utf-8")


def test_programs_beside_the_pages_are_left_out(site: Path) -> None:
    assert [path for path in site.rglob("_*") if path.suffix == ".py"] == []
