"""Run `chutes` in a process of its own, which is forked from one that has imported the runtime."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness.fork_server import fork_server
from benchmarks.harness.server import MODULES

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def chutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `chutes ARGUMENTS` in an empty folder; keyword arguments are environment variables."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        unset = {name for name in os.environ if name.startswith(("CHUTES_", "HF_", "IMAGEGEN_"))}
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        env = {**inherited, "HOME": str(tmp_path), "COLUMNS": "100", **environment}
        return fork_server(*MODULES).run(arguments, Path.cwd(), env)

    return run


@pytest.fixture
def fails(chutes: Run) -> Callable[..., str]:
    """Run a command that cannot do its work: exit code 1, nothing on stdout, one line on stderr, which is returned."""

    def run(*arguments: str, **environment: str) -> str:
        done = chutes(*arguments, **environment)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("Error: ")
        return done.stderr

    return run
