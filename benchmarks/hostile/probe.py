"""A process that requests `/health` and `/ready` every 20 ms, each time over a new connection, as a kubelet does.

    python -m benchmarks.hostile.probe PORT [PREFIX]

It runs until its standard input is closed, then prints its figures as JSON. A request without an answer by then counts
with the time that it has waited. `late_ms` is the longest delay of the process itself: on a busy machine, this part of
a latency is not the server's.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

PATHS = ("/health", "/ready")
EVERY = 0.02  # seconds


@dataclass
class Latency:
    """The latency of requests to a path."""

    requests: int = 0
    failed: int = 0
    worst_ms: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)

    def record(self, began: float) -> None:
        """Count a request that began at `began`."""
        self.requests += 1
        self.worst_ms = max(self.worst_ms, round((time.perf_counter() - began) * 1000, 1))


class Prober:
    """One task per path, and the delay of the process itself."""

    def __init__(self, port: int, prefix: str) -> None:
        self._port = port
        self._prefix = prefix
        self.late_ms = 0.0
        self.latencies = {path: Latency() for path in PATHS}

    async def run(self) -> None:
        """Send requests until standard input is closed."""
        tasks = [asyncio.create_task(self._probe(path)) for path in PATHS]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _probe(self, path: str) -> None:
        host = f"Host: 127.0.0.1:{self._port}"
        request = f"GET {self._prefix}{path} HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n".encode()
        seen = self.latencies[path]
        while True:
            began = time.perf_counter()
            try:
                status = await self._answer(request)
                seen.statuses[status] = seen.statuses.get(status, 0) + 1
                seen.record(began)
            except OSError:
                seen.failed += 1
            except asyncio.CancelledError:
                seen.record(began)
                raise
            planned = time.perf_counter() + EVERY
            await asyncio.sleep(EVERY)
            self.late_ms = max(self.late_ms, round((time.perf_counter() - planned) * 1000, 1))

    async def _answer(self, request: bytes) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(request)
            return (await reader.read()).partition(b" ")[2][:3].decode()
        finally:
            writer.close()


class Probe:
    """The process of the prober, and its figures after it has stopped."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.figures: dict[str, Any] = {}

    def stop(self) -> None:
        """Stop the process and read its figures."""
        if not self.figures:
            output, _ = self._process.communicate()
            self.figures = json.loads(output)


@contextmanager
def probing(port: int, prefix: str = "") -> Iterator[Probe]:
    """Probe `/health` and `/ready` below a prefix from another process until the block ends."""
    command = [sys.executable, "-m", "benchmarks.hostile.probe", str(port), prefix]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    probe = Probe(process)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # the first request follows
        yield probe
    finally:
        probe.stop()


def main() -> None:
    """Probe the port on the command line until standard input ends."""
    prober = Prober(int(sys.argv[1]), "".join(sys.argv[2:]))
    print("started", flush=True)
    asyncio.run(prober.run())
    print(json.dumps({"late_ms": prober.late_ms, **{path: asdict(seen) for path, seen in prober.latencies.items()}}))


if __name__ == "__main__":
    main()
