"""Overload: ten times the server's capacity, at a rate that does not depend on its answers (open loop)."""

import asyncio
import contextlib
import random
import statistics
import time
from collections import Counter
from typing import Any, cast

import httptools
import uvloop

from benchmarks.hostile.probe import probing
from benchmarks.hostile.report import report
from benchmarks.hostile.server import Server, serving, wait_until
from benchmarks.hostile.wire import HOST, post

SERVICE = 0.05  # seconds that a request holds the only slot
QUEUE = 16
TIMES = 10
REJECTED_MS = 50
MARGIN = 1.25
"""Timers and the server's own work add to the handler's sleep."""


class Connection(asyncio.Protocol):
    """A keep-alive connection, for one request at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._began = 0.0
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Record an answer, and mark the connection as free."""
        self._load.answered(self, self._parser.get_status_code(), time.perf_counter() - self._began)

    def connection_lost(self, exc: Exception | None) -> None:
        """Record a request whose connection was closed."""
        self._load.lost(self)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


class Load:
    """Requests with random (Poisson) arrival times at a given rate, each on a free connection."""

    def __init__(self, port: int, rate: float, seed: int = 15) -> None:
        self._port = port
        self._rate = rate
        self._chance = random.Random(seed)
        self._request = post("/wait", b'{"seconds": %g}' % SERVICE)
        self._free: list[Connection] = []
        self._busy: set[Connection] = set()
        self._all_answered = asyncio.Event()
        self.times: dict[int, list[float]] = {}
        self.lost_requests = 0
        self.late_ms = 0.0

    async def run(self, seconds: float) -> None:
        """Send requests for `seconds`, then wait for the remaining answers."""
        loop = asyncio.get_running_loop()
        began = due = time.perf_counter()
        while due - began < seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self.late_ms = max(self.late_ms, (time.perf_counter() - due) * 1000)
            if self._free:
                connection = self._free.pop()
            else:
                _, connection = await loop.create_connection(lambda: Connection(self), HOST, self._port)
            self._busy.add(connection)
            self._all_answered.clear()
            connection.ask(self._request)
            due += self._chance.expovariate(self._rate)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_answered.wait(), 30)
        for connection in [*self._free, *self._busy]:
            connection.close()

    def answered(self, connection: Connection, status: int, took: float) -> None:
        """Record an answer."""
        self.times.setdefault(status, []).append(took)
        self._no_longer_busy(connection)
        self._free.append(connection)

    def lost(self, connection: Connection) -> None:
        """Remove a closed connection."""
        if connection in self._busy:
            self._no_longer_busy(connection)
            self.lost_requests += 1
        if connection in self._free:
            self._free.remove(connection)

    def _no_longer_busy(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if not self._busy:
            self._all_answered.set()


def run(seconds: float) -> dict[str, Any]:
    """Measure, print, and return the result."""
    with serving(settings={"queue_size": QUEUE}) as server:
        rate = TIMES / SERVICE
        load = Load(server.port, rate)
        with probing(server.port) as probe:
            uvloop.run(load.run(seconds))
        idle = wait_until(server.is_idle, 10)
        service = _mean_service(server)
    accepted, rejected = load.times.get(200, []), load.times.get(429, [])
    bound = (QUEUE + 1) * service
    counts = Counter({status: len(times) for status, times in load.times.items()})
    figures = {
        "seconds": seconds,
        "requests per second offered": rate,
        "requests": counts.total() + load.lost_requests,
        "accepted": len(accepted),
        "rejected with 429": len(rejected),
        "anything else": counts.total() - len(accepted) - len(rejected) + load.lost_requests,
        "rejected, p50 ms": _percentile(rejected, 50),
        "rejected, p99 ms": _percentile(rejected, 99),
        "accepted, p50 ms": _percentile(accepted, 50),
        "accepted, p99 ms": _percentile(accepted, 99),
        "accepted, worst ms": round(max(accepted, default=0) * 1000, 1),
        "service time, mean ms": round(service * 1000, 1),
        "queue bound, ms": round(bound * 1000, 1),
        "worst /health, ms": probe.figures["/health"]["worst_ms"],
        "largest delay of the load generator, ms": round(load.late_ms, 1),
    }
    return report(
        "Overload",
        figures,
        {
            "every request is accepted or rejected with 429": bool(accepted) and not figures["anything else"],
            f"rejected: p99 within {REJECTED_MS} ms": figures["rejected, p99 ms"] <= REJECTED_MS,
            "accepted: p99 within 1.25 of (queue + 1) x service time": figures["accepted, p99 ms"]
            <= MARGIN * bound * 1000,
            "at least 0.9 of the capacity is served": len(accepted) >= 0.9 * seconds / service,
            "nothing runs or waits afterwards": idle,
        },
    )


def _mean_service(server: Server) -> float:
    """Return the mean time that the handler held its slot, from the server's metrics."""
    count = server.metric("invocation_duration_count", function="wait", status="200")
    return server.metric("invocation_duration_sum", function="wait", status="200") / max(1.0, count)


def _percentile(times: list[float], percent: int) -> float:
    if len(times) < 2:
        return round(sum(times) * 1000, 1)
    return round(statistics.quantiles(times, n=100)[percent - 1] * 1000, 1)
