"""MkDocs hooks: read the repository's URL from pyproject.toml, and check links that leave docs/."""

import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\((?:\.\./)+([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Link to the repository in the footer.

    Not through `repo_url`: for that the theme would ask the repository's host for its number of stars.
    """
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    config.extra["repository"] = urls["Repository"]
    config.extra["social"] = [
        {"icon": "material/source-repository", "link": urls["Repository"], "name": "Source code"},
    ]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to files outside docs/ into links to the repository."""
    folder = Path(page.file.abs_src_path).parent

    def to_repository(link: re.Match[str]) -> str:
        target = (folder / link[0][2:-1].partition("#")[0]).resolve()
        if not target.is_relative_to(ROOT) or target.is_relative_to(ROOT / "docs"):
            return link[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_path} links to {link[1]}, which does not exist.")
        kind = "tree" if target.is_dir() else "blob"
        return f"]({config.extra['repository']}/{kind}/main/{target.relative_to(ROOT)}{link[2] or ''})"

    return _LINK.sub(to_repository, markdown)
