"""The runtime's overhead per request: a trivial handler as a cord, in plain FastAPI and in LitServe.

    python -m benchmarks.overhead

Each server runs in a process of its own, started as its documentation says. The same client sends requests over
keep-alive connections: one connection for the latency, 32 for the throughput. Each round measures all servers, so that
other load on the machine affects all of them. The medians over the rounds go to `results/overhead.json`. LitServe is in
the `bench` extra.
"""

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.harness.ports import free_port

RESULT = results.RESULTS / "overhead.json"
BODY = b'{"prompt": "a lighthouse in a storm"}'
CLIENTS = 32
SERVERS = {
    "chutes": ["-m", "chutes", "run", "benchmarks.overhead_servers:chute", "--port", "{port}"],
    "FastAPI": ["-m", "uvicorn", "benchmarks.overhead_servers:plain", "--port", "{port}"],
    "LitServe": ["-m", "benchmarks.overhead_litserve", "{port}"],
}


class Client(asyncio.Protocol):
    """A minimal client: one keep-alive connection that sends the next request after each answer."""

    def __init__(self, request: bytes, until: float, max_requests: int) -> None:
        self.times: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._until = until
        self._max_requests = max_requests
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Record the time of a complete answer, and send the next request."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail(RuntimeError(self._received.decode()))
            return
        now = time.perf_counter()
        self.times.append(now - self._sent_at)
        self._received = b""
        if now < self._until and len(self.times) < self._max_requests:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Complete `done`, whichever side closed the connection."""
        if not self.done.done():
            self.done.set_result(None)

    def _fail(self, error: Exception) -> None:
        self.done.set_exception(error)
        self._transport.close()


async def load(port: int, clients: int, seconds: float, max_requests: int = sys.maxsize) -> tuple[list[float], float]:
    """Return the time of each answer in seconds, and the number of answers per second."""
    head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(BODY)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    began = time.perf_counter()

    def connect() -> Client:
        return Client(head.encode() + BODY, began + seconds, max_requests)

    connections = [(await loop.create_connection(connect, "127.0.0.1", port))[1] for _ in range(clients)]
    await asyncio.gather(*(client.done for client in connections))
    times = [taken for client in connections for taken in client.times]
    return times, len(times) / (time.perf_counter() - began)


@contextmanager
def serving(name: str) -> Iterator[int]:
    """Run a server on a free port until the block ends."""
    port = free_port()
    command = [sys.executable, *(part.format(port=port) for part in SERVERS[name])]
    environment = {**os.environ, "CHUTES_KEYS_FILE": "/nonexistent", "CHUTES_API_KEYS": ""}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            _wait_for(port, process)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the process group includes LitServe's workers
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            asyncio.run(load(port, 1, 1, max_requests=1))
        except (OSError, RuntimeError, IndexError):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"The server did not start: {process.args!r}")


def measure(rounds: int, requests: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return, for each server, the medians over the rounds: latency of one client, throughput of 32."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in SERVERS}
    for _ in range(rounds):
        for name in SERVERS:
            with serving(name) as port:
                uvloop.run(load(port, CLIENTS, 60, max_requests=20))  # warm up
                times, _ = uvloop.run(load(port, 1, 60, max_requests=requests))
                under_load, per_second = uvloop.run(load(port, CLIENTS, seconds))
            percents, loaded = statistics.quantiles(times, n=100), statistics.quantiles(under_load, n=100)
            measured[name].append(
                {
                    "p50_ms": percents[49] * 1000,
                    "p99_ms": percents[98] * 1000,
                    "requests_per_second": per_second,
                    "p99_ms_at_32": loaded[98] * 1000,
                }
            )
    return {
        name: {key: round(statistics.median(each[key] for each in all_rounds), 3) for key in all_rounds[0]}
        for name, all_rounds in measured.items()
    }


def report(measured: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Print the table, and return the result."""
    ours, plain, lit = (measured[name] for name in SERVERS)
    table = Table(
        "", "p50 ms, 1 client", "p99 ms", f"requests/s, {CLIENTS} clients", "p99 ms", title="Runtime overhead"
    )
    for name, figures in measured.items():
        table.add_row(name, *(f"{value:,.2f}" for value in figures.values()))
    Console().print(table)
    added = ours["p50_ms"] - plain["p50_ms"]
    share = ours["requests_per_second"] / plain["requests_per_second"]
    met = {
        "p50 within 0.3 ms of plain FastAPI": added <= 0.3,
        "at least 0.8 of plain FastAPI's throughput": share >= 0.8,
        "ahead of LitServe in both": ours["p50_ms"] < lit["p50_ms"]
        and ours["requests_per_second"] > lit["requests_per_second"],
    }
    print(f"against plain FastAPI: {added:+.2f} ms at the median, {share:.2f} of its throughput")
    for target, reached in met.items():
        print(f"{'met   ' if reached else 'MISSED'} {target}")
    return {
        **results.provenance(),
        "versions": {name: version(name) for name in ("fastapi", "starlette", "uvicorn", "litserve")},
        "added_ms_at_p50": round(added, 3),
        "share_of_throughput": round(share, 3),
        "targets": met,
        "servers": measured,
    }


def main() -> int:
    """Measure, print and write the result; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000, help="requests of the latency measurement")
    parser.add_argument("--seconds", type=float, default=3, help="duration of the throughput measurement")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    result = report(measure(given.rounds, given.requests, given.seconds))
    results.write(given.output, result)
    return 0 if all(result["targets"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
