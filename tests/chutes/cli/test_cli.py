"""The command itself: what it imports, what it lists, and its suggestions for a mistyped command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from chutes._version import version
from chutes.cli import COMMANDS
from tests.chutes.cli.conftest import Run

# pydantic is not among them: typer itself reads its arguments with it.
HEAVY = ("fastapi", "httpx", "huggingface_hub", "imagegen", "prometheus_client", "ray", "torch", "uvicorn")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import json, sys\n"
        "from chutes.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: print(json.dumps([end.code, list(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert not status
    assert not set(HEAVY) & set(modules)


def test_help_lists_every_command_with_its_line(chutes: Run) -> None:
    shown = chutes("--help").stdout
    for name, text in COMMANDS.items():
        assert any(name in line and text in line for line in shown.splitlines()), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists(chutes: Run, name: str) -> None:
    done = chutes(name, "--help")
    assert done.returncode == 0
    assert f"Usage: chutes {name}" in done.stdout


def test_version(chutes: Run) -> None:
    done = chutes("--version")
    assert (done.returncode, done.stdout) == (0, f"chutes {version}\n")


def test_the_console_script_runs_the_same_command(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "chutes"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"chutes {version}\n"


def test_a_mistyped_command_or_option_is_a_usage_error(chutes: Run) -> None:
    done = chutes("rum")
    assert done.returncode == 2
    assert "Did you mean 'run'" in done.stderr
    done = chutes("run", "--prot", "1", "x")
    assert done.returncode == 2
    assert "--port" in done.stderr
    assert chutes("run").returncode == 2


def test_run_has_an_option_for_each_setting_except_keys() -> None:
    from chutes.cli import run
    from chutes.server.settings import Settings

    options = {option for parameter in typer.main.get_command(run.app).params for option in parameter.opts}
    expected = {f"--{name.replace('_', '-')}" for name in Settings.model_fields} - {"--api-keys"}
    assert options >= expected
    assert "--api-keys" not in options


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_their_options(chutes: Run, shell: str) -> None:
    if shell == "fish":
        first = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "chutes ru"}
        second = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "chutes keys "}
    elif shell == "zsh":
        first, second = {"_TYPER_COMPLETE_ARGS": "chutes ru"}, {"_TYPER_COMPLETE_ARGS": "chutes keys "}
    else:
        first = {"COMP_WORDS": "chutes ru", "COMP_CWORD": "1"}
        second = {"COMP_WORDS": "chutes keys ", "COMP_CWORD": "2"}
    done = chutes(_CHUTES_COMPLETE=f"complete_{shell}", **first)
    assert "run" in done.stdout
    assert "build" not in done.stdout
    done = chutes(_CHUTES_COMPLETE=f"complete_{shell}", **second)
    assert "create" in done.stdout
    assert "delete" in done.stdout
