import os

import pytest
from typer.testing import CliRunner

from chutes.cli import app

run = CliRunner()


@pytest.fixture
def became(monkeypatch):
    """What the process would become."""
    calls = []

    def execve(file, command, environment):
        calls.append((command, environment))

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("CHUTES_PORT", "8123")
    monkeypatch.delenv("CHUTES_HOST", raising=False)
    return calls


@pytest.mark.parametrize("arguments", [[], ["--head", "--address", "10.0.0.1:6379"]])
def test_either_a_head_or_one_that_joins(arguments):
    done = run.invoke(app, ["node", "start", *arguments])
    assert done.exit_code == 1
    assert "--head to begin a cluster" in done.stderr


def test_a_head_says_where_requests_come_in_and_what_it_has(became):
    run.invoke(app, ["node", "start", "--head", "--pretend-gpus", "h100:80,h100:80"])
    [(command, environment)] = became
    assert {"--head", "--port=6379", "--num-gpus=2", "--block"} <= set(command)
    assert "--labels=chutes-host=127.0.0.1,chutes-port=8123,chutes-gpus=h100-80" in command
    assert environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "chutes.deploy.proxy:middleware"


def test_a_node_joins(became):
    run.invoke(app, ["node", "start", "--address", "10.0.0.1:6379", "--node-ip", "10.0.0.2"])
    [(command, _)] = became
    assert {"--address=10.0.0.1:6379", "--node-ip-address=10.0.0.2"} <= set(command)
    assert "--head" not in command


def test_cards_are_written_properly(became):
    done = run.invoke(app, ["node", "start", "--head", "--pretend-gpus", "h100"])
    assert done.exit_code == 1
    assert done.stderr == "Error: --pretend-gpus: 'h100' is not a GPU: write kind:memory, as h100:80.\n"
    assert became == []
