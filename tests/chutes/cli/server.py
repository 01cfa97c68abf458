"""`chutes run` as a process, on a free port. With a prefix it is a new interpreter, otherwise it is forked."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from benchmarks.harness.fork_server import ForkedProcess, fork_server
from benchmarks.harness.server import MODULES
from benchmarks.harness.waiting import LIMIT

T = TypeVar("T")
Process = subprocess.Popen[str] | ForkedProcess


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LIMIT) as response:
        return int(response.status)


def eventually(ask: Callable[[], T], process: Process) -> T:
    """Return the result of `ask` as soon as it does not raise."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return ask()
        except (OSError, AssertionError):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, f"No answer within {LIMIT:g} seconds"
            time.sleep(0.05)


@contextmanager
def running(
    folder: Path,
    *arguments: str,
    prefix: Sequence[str] = (),
    imported: Sequence[str] = MODULES,
    **environment: str,
) -> Iterator[tuple[Process, int]]:
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CHUTES_")}
    env = {**inherited, "HOME": str(folder), **environment}
    command = ["run", *arguments, "--port", str(port)]
    process: Process
    with (folder / "log").open("w") as log:
        if prefix:
            fresh = [*prefix, sys.executable, "-m", "chutes", *command]
            process = subprocess.Popen(fresh, cwd=folder, env=env, stderr=log, text=True, start_new_session=True)
        else:
            process = fork_server(*imported).start(command, folder, env, log=log)
    try:
        yield process, port
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT)
