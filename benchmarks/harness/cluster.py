"""A Ray cluster of its own, which is started, queried and stopped by process id."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from benchmarks.harness.fork_server import ForkServer
from benchmarks.harness.ports import free_port
from benchmarks.harness.waiting import LIMIT, wait_for
from chutes.deploy.cluster import ENVIRONMENT

__all__ = ["WITHOUT_METRICS", "Cluster", "Load", "cluster_folder", "free_port", "percentile", "wait_for"]

PREAMBLE = """
import asyncio, os, time
from chutes.chute import Chute, NodeSelector
"""


WITHOUT_METRICS = {"RAY_enable_metrics_collection": "0", "REPORTER_UPDATE_INTERVAL_MS": "60000"}
"""Environment variables that turn Ray's own metrics off. `chutes` does not read them, and they take CPU time."""


class Cluster:
    """A folder and an environment in which `chutes` finds this cluster only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.port = free_port()
        self.client = http_client(limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))
        """A client that opens a connection for each request."""
        self._template: ForkServer | None = None
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "CHUTES_"))} | {
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "CHUTES_PORT": str(self.port),
            "CHUTES_KEYS_FILE": str(folder / "keys.json"),
            "TMPDIR": str(folder),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def preload(self, environment: Mapping[str, str] | None = None) -> None:
        """Fork the following commands from a template process, which saves the two seconds that importing Ray takes.

        Ray reads some settings when it is imported. `environment` adds to the settings of every cluster those that
        `chutes` would set before it imports Ray.
        """
        modules = (
            "ray.serve",
            "chutes.cli.chutes",
            "chutes.cli.deploy",
            "chutes.deploy.rollout",
            "chutes.deploy.stats",
        )
        first = {"RAY_AUTH_MODE": "token", **ENVIRONMENT, **(environment or {})}
        self._template = ForkServer(modules, {**self.env, **first})

    def chutes(
        self, *arguments: str, check: bool = True, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a `chutes` command to its end; with `check`, its exit code must be 0."""
        cwd, env = cwd or self.folder, env or self.env
        if self._template is not None:
            done = self._template.run(arguments, cwd, env)
        else:
            command = [sys.executable, "-m", "chutes", *arguments]
            done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def start_chutes(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a `chutes` command without waiting for its end."""
        return subprocess.Popen(
            [sys.executable, "-m", "chutes", *arguments],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def node(self, *arguments: str) -> str:
        """Start a node, and return the cluster's address."""
        output = self.folder / f"node{len(self.nodes)}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "chutes", "node", "start", *arguments],
                cwd=self.folder,
                env=self.env,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.nodes.append(process)

        def up() -> bool:
            assert process.poll() is None, output.read_text()
            # Ray sometimes writes the address only after this message.
            return "Ray runtime started" in output.read_text() and bool(self.address)

        wait_for(up)
        return self.address

    @property
    def address(self) -> str:
        """The address that other nodes join, or an empty string."""
        try:
            return (self.folder / "ray" / "ray_current_cluster").read_text().strip()
        except OSError:
            return ""

    def write(self, module: str, source: str) -> None:
        """Write a module that consists of PREAMBLE and `source`."""
        (self.folder / f"{module}.py").write_text(PREAMBLE + source)

    def deploy(self, ref: str, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `chutes deploy`."""
        return self.chutes("deploy", ref, *options, check=check)

    def status(self, name: str) -> dict[str, Any]:
        """Return the status of a deployed chute."""
        return dict(json.loads(self.chutes("chutes", "status", name, "--json").stdout))

    def url(self, path: str) -> str:
        """Return the URL of a path at the cluster's HTTP proxy."""
        return f"http://127.0.0.1:{self.port}/{path}"

    def get(self, path: str) -> httpx.Response:
        """Send a GET request to the HTTP proxy."""
        return self.client.get(self.url(path))

    def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        """Send a POST request to the HTTP proxy, by default with an empty JSON object."""
        return self.client.post(self.url(path), json=body or {}, headers=headers)

    def processes(self) -> list[int]:
        """Return the ids of all processes with this cluster's folder in their environment or command line."""
        found = []
        own = {os.getpid(), self._template.pid if self._template else 0}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in own:
                try:
                    text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.folder).encode() in text:
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        """Stop the nodes, and kill the processes that they left running."""
        if self._template is not None:
            self._template.close()
        self.client.close()
        for process in reversed(self.nodes):
            process.send_signal(signal.SIGTERM)
        for process in self.nodes:
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def cluster_folder() -> Iterator[Cluster]:
    """Provide a cluster without nodes. Its folder has a short path, because Ray keeps sockets in it."""
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="cd", dir="/tmp")))
    try:
        yield cluster
    finally:
        cluster.stop()


def http_client(**options: Any) -> httpx.Client:
    """Return a client for plain HTTP. It loads no certificates, which would take 30 ms of CPU time."""
    return httpx.Client(timeout=LIMIT, verify=False, **options)


class Load:
    """Clients that send requests without pause, each on its own thread, until the block ends."""

    def __init__(self, url: str, clients: int, body: dict[str, Any] | None = None) -> None:
        self.answers: list[tuple[float, float, int, str]] = []
        """Start time, duration in seconds, status (0: no answer) and replica of each request."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url, body or {})) for _ in range(clients)]

    def _run(self, url: str, body: dict[str, Any]) -> None:
        with http_client() as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    answer = client.post(url, json=body)
                    status, replica = answer.status_code, answer.headers.get("x-chutes-replica", "")
                except httpx.HTTPError:
                    status, replica = 0, ""
                    time.sleep(0.05)
                self.answers.append((began, time.monotonic() - began, status, replica))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def count(self, *statuses: int) -> int:
        """Return the number of answers with one of these statuses."""
        return sum(status in statuses for _, _, status, _ in self.answers)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of values, as one of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
