import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from benchmarks.harness.waiting import LIMIT
from chutes._gpus import Gpu
from chutes.deploy import cluster
from chutes.deploy.placement import LABEL


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_TIMEOUT", LIMIT)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it after the code has set it
        monkeypatch.delenv(name)


def note(tmp_path: Path, address: str) -> None:
    (tmp_path / "ray").mkdir(exist_ok=True)
    (tmp_path / "ray" / "ray_current_cluster").write_text(address)


@contextmanager
def head() -> Iterator[int]:
    """Run a gRPC server, which is all that `find` checks of a head node."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def test_finds_the_local_cluster_or_the_one_at_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster.find() is None
    with head() as port:
        address = f"127.0.0.1:{port}"
        note(tmp_path, address)
        assert cluster.find() == address
        assert cluster.find(address) == address
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
        assert cluster.find() is None
        assert cluster.find(address) == address


def test_another_server_is_not_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert cluster.find(address) is None
    for nonsense in ("nonsense", ":", ":6379", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:-1"):
        assert cluster.find(nonsense) is None


def test_a_stopped_cluster_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_TIMEOUT", 86_400)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    note(tmp_path, f"127.0.0.1:{port}")
    assert cluster.find() is None
    with pytest.raises(cluster.NoCluster, match="Start one with `chutes deploy`"), cluster.connected():
        pass
    with pytest.raises(cluster.NoCluster, match=r"No cluster answers at no\.such\.host:1"):
        cluster.connected("no.such.host:1").__enter__()


def test_a_head_node_creates_a_token_that_only_its_user_can_read(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    cluster.enable_token_auth()
    assert not path.exists()
    assert "RAY_AUTH_MODE" not in os.environ
    cluster.enable_token_auth(create=True)
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.environ["RAY_AUTH_MODE"] == "token"
    del os.environ["RAY_AUTH_MODE"]
    cluster.enable_token_auth(create=True)
    assert path.read_text() == token


def test_auth_settings_of_the_environment_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster.enable_token_auth(create=True)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert not (tmp_path / ".ray").exists()


def test_nodes_report_their_gpus_as_a_label() -> None:
    command = cluster.node_command(address="10.0.0.1:6379", gpus=[Gpu("h100", 80)] * 2, labels={})
    assert f"--labels={LABEL}=h100-80" in command
    assert "--num-gpus=2" in command
    assert "--num-gpus=0" in cluster.node_command(gpus=[], labels={})


def test_nodes_run_only_the_processes_of_ray_that_chutes_uses() -> None:
    head = cluster.node_command(gpus=[], labels={})
    assert {"--include-log-monitor=false", "--no-monitor", "--include-dashboard=false"} <= set(head)
    joining = cluster.node_command(address="10.0.0.1:6379", gpus=[], labels={})
    assert "--include-log-monitor=false" in joining


@pytest.mark.parametrize(
    ("http", "url"),
    [
        (("127.0.0.1", 8000), "http://localhost:8000/slug"),
        (("10.0.0.1", 80), "http://10.0.0.1:80/slug"),
        (("::1", 80), "http://[::1]:80/slug"),
        (("0.0.0.0", 80), f"http://{socket.gethostname()}:80/slug"),
    ],
)
def test_urls(http: tuple[str, int], url: str) -> None:
    assert cluster.url("slug", http) == url


def test_only_a_local_cluster_is_stopped(tmp_path: Path) -> None:
    note(tmp_path, "127.0.0.1:1")
    assert not cluster.stop_local({"chutes-host": "127.0.0.1"})
    assert (tmp_path / "ray" / "ray_current_cluster").exists()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
    assert cluster.stop_local({cluster.LOCAL_LABEL: str(sleeper.pid)})
    assert sleeper.wait(LIMIT) == -signal.SIGTERM
    assert not (tmp_path / "ray" / "ray_current_cluster").exists()
