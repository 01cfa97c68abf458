"""What a type checker says about an author's code that uses the installed wheel."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from chutes.cli import _wheel

PROJECT = Path(__file__).parent / "author_project"
CACHE = Path(__file__).parents[2] / ".mypy_cache/author_project"


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, int, str]]:
    """Return the file, line and code of each error that `mypy --strict` reports for the project."""
    folder = tmp_path_factory.mktemp("author")
    venv.create(folder / "env", with_pip=False)
    (packages,) = (folder / "env").glob("lib/*/site-packages")
    with zipfile.ZipFile(_wheel.write(folder)) as wheel:
        wheel.extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # everything but the wheel itself
    options = ["--strict", "--config-file=", f"--python-executable={folder}/env/bin/python", f"--cache-dir={CACHE}"]
    command = [sys.executable, "-m", "mypy", *options, "story.py", "mistakes.py"]
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MYPYPATH"}}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert "checked 2 source files" in done.stdout, done.stdout + done.stderr
    found = re.findall(r"^(\S+):(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert len(found) == done.stdout.count(": error: "), done.stdout
    return {(file, int(line), code) for file, line, code in found}


def test_decorated_functions_keep_their_types(errors: set[tuple[str, int, str]]) -> None:
    assert [error for error in errors if error[0] != "mistakes.py"] == []


def test_misspelt_names_and_wrong_types_are_errors(errors: set[tuple[str, int, str]]) -> None:
    lines = (PROJECT / "mistakes.py").read_text().splitlines()
    expected = {("mistakes.py", at, line.split("  # ")[1]) for at, line in enumerate(lines, 1) if "  # " in line}
    assert {error for error in errors if error[0] == "mistakes.py"} == expected
