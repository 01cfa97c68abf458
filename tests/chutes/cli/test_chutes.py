import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chutes.cli import app

run = CliRunner()


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_without_a_cluster_the_list_is_empty() -> None:
    assert json.loads(run.invoke(app, ["chutes", "list", "--json"]).stdout) == []
    done = run.invoke(app, ["chutes", "list"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "No cluster is running" in done.stderr


@pytest.mark.parametrize("named", [["--address", "127.0.0.1:1"], []])
def test_an_explicit_address_must_answer(named: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    done = run.invoke(app, ["chutes", "list", "--json", *named])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: No cluster answers at 127.0.0.1:1. Set --address or RAY_ADDRESS ")
    assert done.stderr.count("\n") == 1


def test_an_invalid_setting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_PORT", "abc")
    done = run.invoke(app, ["chutes", "status", "some-chute"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: CHUTES_PORT is 'abc'")


@pytest.mark.parametrize("command", ["get", "status", "metrics", "logs", "delete"])
def test_commands_require_a_cluster(command: str) -> None:
    done = run.invoke(app, ["chutes", command, "some-chute"])
    assert done.exit_code == 1
    assert done.stderr == "Error: No cluster is running on this machine. Start one with `chutes deploy`.\n"
