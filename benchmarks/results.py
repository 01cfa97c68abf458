"""Results on disk, and the tables that documentation pages show of them.

Every file in `results/` says by itself when, on which commit, with which command and on which machine it was measured.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def provenance() -> dict[str, Any]:
    """Return when, on which commit, with which command and on which machine this process measures."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(ROOT),
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "machine": {
            "cpus": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
        },
    }


def commit(folder: Path) -> str:
    """Return the short hash of the commit in a folder, with `-dirty` if files are changed; empty without git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def _module() -> str:
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return str(specification.name).removesuffix(".__main__") if specification else Path(sys.argv[0]).name


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def replace_marked(text: str, name: str, content: str) -> str:
    """Replace what a page has between `<!-- begin NAME -->` and `<!-- end NAME -->`; ValueError without these."""
    marked = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not marked.search(text):
        raise ValueError(f"The page has no markers '<!-- begin {name} -->' and '<!-- end {name} -->'.")
    return marked.sub(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text)
