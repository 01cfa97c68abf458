"""`chutes build` with a double of docker: a script that records its arguments."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chutes.cli.conftest import Run
from tests.chutes.cli.server import eventually, get, running

CHUTE = """
from chutes.chute import Chute
from chutes.image import Image
import mine_helper

image = Image(username="Me", name="mine", tag="1.0").from_base("python:3.12-slim").add("weights.txt", "/data/")
chute = Chute(username="me", name="mine", image=image)
ready_made = Chute(username="me", name="ready-made", image="vllm/vllm-openai:v1")
"""


@pytest.fixture
def folder(chutes: Run, tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CHUTE)
    (tmp_path / "mine_helper.py").touch()
    (tmp_path / "unused.py").touch()
    (tmp_path / "weights.txt").write_text("w")
    return tmp_path


def docker(folder: Path, *, engine: bool = True, build: int = 0) -> str:
    """Return a PATH with a docker that records its arguments; `build` is its exit code."""
    (folder / "bin").mkdir()
    script = folder / "bin/docker"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\n'
        f'case "$1" in version) exit {0 if engine else 1};; build) exit {build};; esac\n'
    )
    script.chmod(0o755)
    return f"{folder}/bin:{os.environ['PATH']}"


def test_print_writes_no_files(chutes: Run, folder: Path) -> None:
    before = sorted(folder.iterdir())
    done = chutes("build", "mine:chute", "--print")
    assert done.returncode == 0
    assert "\nFROM python:3.12-slim\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith('CMD ["python3", "-m", "chutes", "run", "mine:chute"')
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before
    tool = Path(sys.executable).parent / "hadolint"
    lint = subprocess.run([tool, "-"], input=done.stdout, capture_output=True, text=True, check=False)
    assert (lint.returncode, lint.stdout) == (0, "")


def test_a_module_without_a_real_file_is_left_out(chutes: Run, folder: Path) -> None:
    """PyTorch has such modules."""
    (folder / "mine_helper.py").write_text(
        "import sys, types\nsys.modules['odd'] = types.ModuleType('odd')\nsys.modules['odd'].__file__ = '_odd.py'\n"
    )
    done = chutes("build", "mine", "--print")
    assert done.returncode == 0, done.stderr


def test_docker_builds_a_complete_context(chutes: Run, folder: Path) -> None:
    done = chutes("build", "mine", PATH=docker(folder))
    assert (done.returncode, done.stdout) == (0, "me/mine:1.0\n"), done.stderr
    calls = (folder / "calls").read_text().splitlines()
    assert calls == ["version", "build --platform linux/amd64 --tag me/mine:1.0 build/mine-1.0"]
    context = folder / "build/mine-1.0"
    app = context / "_chute/app"
    assert sorted(path.name for path in app.iterdir()) == ["mine.py", "mine_helper.py"]
    assert (context / "weights.txt").read_text() == "w"
    assert len(list((context / "_chute").glob("*.whl"))) == 1


def test_the_packed_files_serve(chutes: Run, folder: Path) -> None:
    chutes("build", "mine")
    app = folder / "build/mine-1.0/_chute/app"
    with running(app, "mine:chute") as (process, port):  # without weights.txt, which the image contains
        assert eventually(lambda: get(port, "/health"), process) == 200


def test_modules_that_a_hook_imports_are_packed(chutes: Run, folder: Path) -> None:
    (folder / "mine_helper.py").write_text("def load():\n    import mine_later\n")
    (folder / "mine_later.py").write_text("import mine_last\n")
    (folder / "mine_last.py").touch()
    chutes("build", "mine", "--context", "out")
    packed = sorted(path.name for path in (folder / "out/_chute/app").iterdir())
    assert packed == ["mine.py", "mine_helper.py", "mine_last.py", "mine_later.py"]


def test_include_cwd_packs_every_file(chutes: Run, folder: Path) -> None:
    chutes("build", "mine", "--include-cwd", "--context", "out")
    assert {"unused.py", "weights.txt"} <= {path.name for path in (folder / "out/_chute/app").iterdir()}


def test_a_chute_in_a_subfolder_is_packed_with_its_modules(chutes: Run, folder: Path) -> None:
    (folder / "deep").mkdir()
    for name in ("mine.py", "mine_helper.py"):
        (folder / name).rename(folder / "deep" / name)
    shown = chutes("build", "deep/mine.py", "--print").stdout
    assert '"mine:chute"' in shown
    chutes("build", "deep/mine.py", "--context", "out")
    assert sorted(p.name for p in (folder / "out/_chute/app").iterdir()) == ["mine.py", "mine_helper.py"]


def test_without_an_engine_the_error_names_the_build_command(chutes: Run, folder: Path) -> None:
    done = chutes("build", "mine", PATH=docker(folder, engine=False))
    assert (done.returncode, done.stdout) == (1, "")
    assert "engine does not answer" in done.stderr
    assert "docker build --platform linux/amd64 --tag me/mine:1.0 build/mine-1.0" in done.stderr
    done = chutes("build", "mine", PATH=str(folder / "nothing"))
    assert done.returncode == 1
    assert "Docker is not installed" in done.stderr
    assert (folder / "build/mine-1.0/Dockerfile").is_file()


def test_a_failed_build_is_an_error(chutes: Run, folder: Path) -> None:
    done = chutes("build", "mine", PATH=docker(folder, build=17))
    assert (done.returncode, done.stdout) == (1, "")
    assert "exit code 17" in done.stderr


def test_an_error_is_one_line(fails: Callable[..., str], folder: Path) -> None:
    line = fails("build", "mine:ready_made")
    assert "vllm/vllm-openai:v1" in line
    assert "nothing to build" in line
    assert "nothing.py" in fails("build", "nothing.py")
    assert "mine:chute" in fails("build", "mine:chut")
    (folder / "full").mkdir()
    (folder / "full/file").touch()
    assert "--context" in fails("build", "mine", "--context", "full")
    (folder / "weights.txt").unlink()
    assert "weights.txt" in fails("build", "mine")
