import os
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from chutes.cli import app
from tests.chutes.cli.server import free_port

run = CliRunner()

Calls = list[tuple[list[str], dict[str, str]]]


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Record the commands of new processes, and start a process that ends at once instead."""
    calls: Calls = []
    popen = subprocess.Popen

    def start(command: list[str], *, env: dict[str, str], process_group: int | None) -> subprocess.Popen[bytes]:
        calls.append((command, env))
        return popen([sys.executable, "-c", "raise SystemExit(7)"], process_group=process_group)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("chutes.deploy.cluster.find", lambda address: address)
    monkeypatch.setattr("chutes.deploy.cluster.check_access", lambda address: None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("CHUTES_PORT", str(free_port()))
    monkeypatch.delenv("CHUTES_HOST", raising=False)
    return calls


@pytest.mark.parametrize("arguments", [[], ["--head", "--address", "10.0.0.1:6379"]])
def test_head_and_address_exclude_each_other(arguments: list[str]) -> None:
    done = run.invoke(app, ["node", "start", *arguments])
    assert done.exit_code == 1
    assert "--head to start a cluster" in done.stderr


def test_a_head_node_has_labels_for_its_address_and_gpus(began: Calls) -> None:
    joined_at, asked_at = free_port(), os.environ["CHUTES_PORT"]
    given = ["--cluster-port", str(joined_at), "--fake-gpus", "h100:80,h100:80"]
    done = run.invoke(app, ["node", "start", "--head", *given])
    assert done.exit_code == 7  # the exit code of the node
    [(command, environment)] = began
    assert {"--head", f"--port={joined_at}", "--num-gpus=2", "--block"} <= set(command)
    assert f"--labels=chutes-host=127.0.0.1,chutes-port={asked_at},chutes-gpus=h100-80" in command
    assert environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "chutes.deploy.proxy:middleware"


def test_a_node_joins_a_cluster(began: Calls) -> None:
    run.invoke(app, ["node", "start", "--address", "10.0.0.1:6379", "--node-ip", "10.0.0.2"])
    [(command, _)] = began
    assert {"--address=10.0.0.1:6379", "--node-ip-address=10.0.0.2"} <= set(command)
    assert "--head" not in command


def test_malformed_fake_gpus_are_one_line(began: Calls) -> None:
    done = run.invoke(app, ["node", "start", "--head", "--fake-gpus", "h100"])
    assert done.exit_code == 1
    assert done.stderr == "Error: --fake-gpus is invalid: 'h100' is not a GPU. Write KIND:GB, such as h100:80.\n"
    assert began == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--head", "--host", "203.0.113.7"],
            "Cannot listen on 203.0.113.7:8123: Cannot assign requested address. Choose another host or port",
        ),
        (["--head", "--node-ip", "999.1.1.1"], "--node-ip must be an IP address such as 10.0.0.5; got '999.1.1.1'"),
        (
            ["--address", "nonsense"],
            "No cluster answers at nonsense. Set --address to the HOST:PORT of the head node",
        ),
        (
            ["--address", "127.0.0.1:1"],
            "No cluster answers at 127.0.0.1:1. Set --address to the HOST:PORT of the head node",
        ),
    ],
)
def test_an_invalid_address_is_one_line(arguments: list[str], message: str) -> None:
    done = run.invoke(app, ["node", "start", *arguments], env={"CHUTES_PORT": "8123"})
    assert (done.exit_code, done.stderr) == (1, f"Error: {message}.\n")


@pytest.mark.parametrize("option", ["--port", "--cluster-port"])
def test_a_port_in_use_is_an_error_before_the_start(option: str, began: Calls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run.invoke(app, ["node", "start", "--head", option, port])
    assert done.exit_code == 1
    assert f":{port}: Address already in use" in done.stderr
    assert began == []
