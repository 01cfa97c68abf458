"""A `chutes run` process on a free port, which is queried over HTTP and stopped by its process id."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.harness.fork_server import ForkedProcess, fork_server
from benchmarks.harness.waiting import LIMIT, wait_for

__all__ = ["IMAGE_MODULES", "MODULES", "Server", "serving", "wait_for"]

MODULES = ("chutes.cli.run", "chutes.server.process")
"""The modules of every server."""

IMAGE_MODULES = (
    *MODULES,
    "imagegen.http.service",
    "imagegen.engine",
    "imagegen.models",
    "diffusers.pipelines.flux.pipeline_flux_img2img",
    "diffusers.pipelines.flux.pipeline_flux_inpaint",
)
"""The modules of a server that loads a FLUX pipeline."""

PREAMBLE = """
import asyncio, threading, time
from chutes.chute import Chute
chute = Chute(username="test", name="promise", image="none", concurrency={concurrency})
"""


class Server:
    """A `chutes run` process, with its address and its log."""

    def __init__(self, process: subprocess.Popen[str] | ForkedProcess) -> None:
        self.process = process
        self.lines: list[str] = []
        self.client = httpx.Client(timeout=LIMIT, verify=False, trust_env=False)
        self.port = 0
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            if not self.port and "Listening on http" in line:
                self.port = int(json.loads(line)["message"].rsplit(":", 1)[1])
                self._listening.set()
        self._listening.set()

    def wait_for_port(self) -> None:
        """Wait until the server listens."""
        self._listening.wait(LIMIT)
        assert self.port, f"The server never listened: {self.lines}"

    def wait_until_ready(self) -> None:
        """Wait until `/ready` answers 200."""
        wait_for(lambda: self.get("/ready").status_code == 200)

    @property
    def url(self) -> str:
        """The server's base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> list[dict[str, Any]]:
        """All log records so far."""
        return [json.loads(line) for line in self.lines]

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request; options are those of httpx."""
        return self.client.get(self.url + path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a POST request, by default with an empty JSON object; options are those of httpx."""
        return self.client.post(self.url + path, **{"json": {}, **options})

    def connect(self) -> socket.socket:
        """Open a TCP connection, for bytes that no client library sends."""
        return socket.create_connection(("127.0.0.1", self.port), LIMIT)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over all series that have these labels."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{key}="{text}"' in series for key, text in labels.items()):
                total += float(value)
        return total

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end, and return its exit code."""
        code = self.process.wait(LIMIT)
        self._reader.join(LIMIT)
        return code


@contextmanager
def serving(
    folder: Path,
    source: str,
    *,
    concurrency: int = 1,
    wait: bool = True,
    ref: str | None = None,
    imported: Sequence[str] = MODULES,
    **env: object,
) -> Iterator[Server]:
    """Serve a chute whose module consists of PREAMBLE and `source`.

    Args:
        folder: the working directory of the process.
        source: the module's code after the preamble.
        concurrency: the chute's concurrency.
        wait: wait until the server is ready.
        ref: serve this reference instead of the module.
        imported: fork the server from a process with these modules; if empty, start a new interpreter.
        env: settings, passed as CHUTES_* variables.
    """
    module = folder / "served.py"
    module.write_text(PREAMBLE.format(concurrency=concurrency) + source)
    settings = {f"CHUTES_{key.upper()}": str(value) for key, value in env.items()}
    settings.setdefault("CHUTES_PORT", "0")
    settings.setdefault("CHUTES_KEYS_FILE", str(folder / "keys.json"))
    server = Server(_start(["run", ref or str(module)], folder, {**os.environ, **settings}, imported))
    try:
        if wait:
            server.wait_for_port()
            server.wait_until_ready()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.wait()
        server.client.close()
        assert server.process.stderr is not None
        server.process.stderr.close()


def _start(
    arguments: list[str], folder: Path, env: dict[str, str], imported: Sequence[str]
) -> subprocess.Popen[str] | ForkedProcess:
    if imported:
        return fork_server(*imported).start(arguments, folder, env)
    command = [sys.executable, "-m", "chutes", *arguments]
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
