import io
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from chutes.cli import app
from chutes.cli._deploy_progress import DeployProgress

run = CliRunner()


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


def test_a_missing_module_starts_no_cluster() -> None:
    done = run.invoke(app, ["deploy", "no_such_module"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: There is no module no_such_module")


def test_environment_variables_are_pairs() -> None:
    done = run.invoke(app, ["deploy", "x", "--env", "NOPE"])
    assert done.exit_code == 1
    assert done.stderr == "Error: --env must have the form KEY=VALUE; got 'NOPE'.\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--env", "CHUTES_QUEUE_SIZE=lots"], {}, "CHUTES_QUEUE_SIZE is 'lots'"),
        ([], {"CHUTES_PORT": "abc"}, "CHUTES_PORT is 'abc'"),
        (["--name", ""], {}, "--name must contain a letter or digit; got ''."),
        (["--name", "///"], {}, "--name must contain a letter or digit; got '///'."),
    ],
)
def test_an_invalid_option_or_setting_is_one_line(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    done = run.invoke(app, ["deploy", "x", *arguments], env=environment)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {message}")
    assert done.stderr.count("\n") == 1


def test_an_address_without_a_cluster_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "deployable.py").write_text(
        'from chutes.chute import Chute\nchute = Chute(username="a", name="b", image="c")\n'
    )
    done = run.invoke(app, ["deploy", "deployable", "--address", "127.0.0.1:9"])
    assert done.exit_code == 1
    assert "\nError: No cluster answers at 127.0.0.1:9. Set --address or RAY_ADDRESS " in f"\n{done.stderr}"


def test_a_log_has_one_line_per_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with DeployProgress() as progress:
        for fraction in (None, None, 0.5, 0.5):
            progress.report("loading", fraction)
        progress.report("ready", 1.0)
    lines = [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["loading", "loading 50%", "ready"]


def test_a_terminal_shows_phases_literally(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        "chutes.cli._deploy_progress.Console", lambda **_: Console(file=screen, force_terminal=True, width=80)
    )
    with DeployProgress() as progress:
        progress.report("loading [/nope] \x1b]0;title\x07", 0.5)
    assert r"loading [/nope] \x1b]0;title\x07 50%" in screen.getvalue()
    assert "\x1b]0" not in screen.getvalue()
