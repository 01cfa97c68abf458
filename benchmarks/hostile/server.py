"""A `chutes run` process and its resources: memory, threads, descriptors and metrics."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.results import ROOT

CHUTE = "benchmarks.hostile.served:chute"
PICTURES = "benchmarks.hostile.pictures:chute"
MIB = 1024 * 1024
_LOADED = 180  # seconds


class Process:
    """A process, observed through /proc (Linux)."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")

    def exists(self) -> bool:
        """Return whether the process runs."""
        return self._proc.exists()

    def _status(self, field: str) -> int:
        text = (self._proc / "status").read_text()
        found = re.search(rf"^{field}:\s*(\d+)", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        return self._status("VmRSS") * 1024

    def peak_memory(self) -> int:
        """Return the largest resident memory since `reset_peak`, in bytes."""
        return self._status("VmHWM") * 1024

    def reset_peak(self) -> None:
        """Reset `peak_memory`."""
        (self._proc / "clear_refs").write_text("5")

    def threads(self) -> int:
        """Return the number of threads."""
        return self._status("Threads")

    def descriptors(self) -> int:
        """Return the number of open file descriptors."""
        return len(list((self._proc / "fd").iterdir()))


class Server(Process):
    """A running server, observed through /proc and its /metrics."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int = 0) -> None:
        super().__init__(process.pid)
        self.process = process
        self.port = port
        self._log = log

    @property
    def url(self) -> str:
        """The server's base URL."""
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        """Return whether the server is ready; sets `port` when the server listens."""
        if not self.port and (found := re.search(r"Listening on http://127\.0\.0\.1:(\d+)", self.log())):
            self.port = int(found[1])
        return bool(self.port) and self.get("/ready") is not None

    def get(self, path: str, timeout: float = 10) -> bytes | None:
        """Send a GET, and return the body if the status is 200, else None."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
                body: bytes = answer.read()
                return body
        except (OSError, urllib.error.HTTPError):
            return None

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over all series that have these labels."""
        total = 0.0
        for line in (self.get("/metrics") or b"").decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{key}="{text}"' in series for key, text in labels.items()):
                total += float(value)
        return total

    def is_idle(self) -> bool:
        """Return whether no request runs or waits."""
        text = self.get("/metrics")
        if text is None:
            return False
        gauges = re.findall(rb"^chutes_(?:in_flight|queue_depth)\S* (\S+)$", text, re.MULTILINE)
        return bool(gauges) and not any(float(value) for value in gauges)

    def log(self) -> str:
        """Return the server's log."""
        return self._log.read_text("utf-8", "replace")


@contextmanager
def serving(ref: str = CHUTE, settings: Mapping[str, object] | None = None) -> Iterator[Server]:
    """Serve a chute on a free port until the block ends; settings become CHUTES_* variables."""
    with tempfile.TemporaryDirectory(prefix="chutes-hostile-") as folder:
        log = Path(folder) / "stderr"
        environment = {**os.environ, "CHUTES_API_KEYS": "", "CHUTES_KEYS_FILE": str(Path(folder) / "keys.json")}
        environment |= {f"CHUTES_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        command = [sys.executable, "-m", "chutes", "run", ref, "--port", "0"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        server = Server(process, log)
        try:
            wait_until(lambda: process.poll() is not None or server.is_ready(), _LOADED)
            if process.poll() is not None or not server.port:
                raise RuntimeError(f"{ref} did not start. Its log:\n{server.log()}")
            yield server
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


def wait_until(condition: Callable[[], object], seconds: float = 30) -> bool:
    """Wait until a condition holds, for a limited time, and return whether it did."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())
