"""The pages for authors: every code block runs, and prints what the page shows."""

import inspect
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.harness.cluster import WITHOUT_METRICS, cluster_folder
from chutes.chute import Chute, Cord, Job, NodeSelector
from chutes.image import Image
from tests.docs.page import DOCS, blocks_of, reader

PAGES = [
    path
    for name in ("tutorial.md", "writing", "container-images.md")
    for path in (sorted((DOCS / name).glob("*.md")) if (DOCS / name).is_dir() else [DOCS / name])
]

NOT_RUN = {
    "writing/lifecycle.md": ["a moment of a load"],
    "tutorial.md": ["installs packages", "the test has a folder already", "needs a Docker engine"],
}
"""By page, why some of its blocks are not run."""

TABLES = {
    "Chute": ("writing/index.md", Chute),
    "NodeSelector": ("writing/index.md", NodeSelector),
    "Cord": ("writing/cords.md", Cord),
    "Job": ("writing/jobs.md", Job),
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages use curl")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_blocks_of(page: Path) -> None:
    with cluster_folder() as cluster, reader(cluster) as who:
        cluster.env |= WITHOUT_METRICS
        for block in blocks_of(page):
            who.read(block)


def test_the_blocks_that_are_not_run_are_known() -> None:
    found = {str(page.relative_to(DOCS)): [block.reason for block in blocks_of(page) if block.reason] for page in PAGES}
    assert {page: reasons for page, reasons in found.items() if reasons} == NOT_RUN


@pytest.mark.parametrize("name", TABLES)
def test_a_table_lists_every_argument_with_its_default(name: str) -> None:
    page, kind = TABLES[name]
    table = (DOCS / page).read_text().split(f"<!-- arguments of {name} -->\n")[1].split("\n\n")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \|(?: `(.*?)`)? \|", table, re.MULTILINE))
    parameters = inspect.signature(kind).parameters.values()
    assert {name: default.replace('"', "'") for name, default in listed.items()} == {
        each.name: "" if each.default is each.empty else repr(each.default)
        for each in parameters
        if each.kind is not each.VAR_KEYWORD and each.name != "app"
    }


def test_the_page_names_every_method_of_image() -> None:
    page = (DOCS / "container-images.md").read_text()
    for name, method in vars(Image).items():
        if not name.startswith("_") and callable(method):
            assert re.search(rf"`{name}\b", page), name
            for parameter in inspect.signature(method).parameters:
                assert parameter == "self" or parameter in page, f"{name}({parameter}=)"
