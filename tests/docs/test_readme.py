import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
URL = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]


def test_links_and_images_are_absolute_and_name_what_exists() -> None:
    """A package index shows the README without the repository around it."""
    links = re.findall(r"^\[[^\]]+\]: (\S+)$", README, re.MULTILINE) + re.findall(r'src="([^"]+)"', README)
    raw = URL.replace("https://github.com/", "https://raw.githubusercontent.com/")
    for link in links:
        path = re.fullmatch(rf"{re.escape(URL)}/(?:blob|tree)/main/([^\s#]+)\S*|{re.escape(raw)}/main/(\S+)", link)
        assert path, f"{link} is not a link to {URL}"
        assert (ROOT / (path[1] or path[2])).exists(), link
    assert "](" not in README


def test_every_reference_link_is_defined() -> None:
    prose, defined = (
        re.sub(r"```.*?```", "", README, flags=re.DOTALL),
        re.findall(r"^\[([^\]]+)\]:", README, re.MULTILINE),
    )
    used = re.findall(r"\[([^\]]+)\](?!:)", re.sub(r"`[^`]*`", "", prose))
    assert {name.lower() for name in used} == {name.lower() for name in defined}


def test_the_first_chute_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert code in (ROOT / "docs" / "index.md").read_text("utf-8")
    names: dict[str, Any] = {"__name__": "hello"}
    exec(code, names)
    with TestClient(names["chute"]) as client:
        assert client.post("/hello", json={"name": "you"}).json() == {"message": "Hello, you"}


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_other_pages_name_what_exists(name: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text("utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text("utf-8"), re.MULTILINE)
        assert not anchor or anchor in {slugify(heading, "-") for heading in headings}, f"{name} links to {link}"
