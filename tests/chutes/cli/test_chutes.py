import json

import pytest
from typer.testing import CliRunner

from chutes.cli import app

run = CliRunner()


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_without_a_cluster_nothing_is_deployed():
    assert json.loads(run.invoke(app, ["chutes", "list", "--json"]).stdout) == []
    done = run.invoke(app, ["chutes", "list"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert "nothing is deployed" in done.stderr


@pytest.mark.parametrize("command", ["get", "status", "metrics", "logs", "delete"])
def test_what_needs_a_cluster_says_so(command):
    done = run.invoke(app, ["chutes", command, "some-chute"])
    assert done.exit_code == 1
    assert done.stderr == "Error: No cluster is running here: `chutes deploy` starts one.\n"
