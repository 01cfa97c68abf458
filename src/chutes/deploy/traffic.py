"""Counts of the requests that pass through the proxy, by the slug of their chute."""

import statistics
import time
from collections import Counter, defaultdict, deque
from typing import Any, NamedTuple

from chutes.server.in_flight import CLIENT_CLOSED_REQUEST

MIN_ERROR_STATUS = 400
"""The lowest status of a response that is an error."""

WINDOW = 300.0
"""Seconds for which finished requests are remembered."""

_MAX_REMEMBERED = 10_000  # of each chute


class FinishedRequest(NamedTuple):
    """When a request started (Unix time), how many seconds it took, and the status of its response."""

    started: float
    duration: float
    status: int


class Traffic:
    """The requests in flight, including queued ones, and the requests that finished within the window."""

    def __init__(self) -> None:
        self._created = time.time()
        self._in_flight: Counter[str] = Counter()
        self._finished: defaultdict[str, deque[FinishedRequest]] = defaultdict(lambda: deque(maxlen=_MAX_REMEMBERED))

    def begin(self, slug: str) -> float:
        """Count a request in flight, and return its start time."""
        self._in_flight[slug] += 1
        return time.time()

    def end(self, slug: str) -> None:
        """Stop counting a request in flight."""
        self._in_flight[slug] -= 1
        if not self._in_flight[slug]:
            del self._in_flight[slug]

    def record(self, slug: str, started: float, status: int) -> None:
        """Remember a request that has just finished."""
        self._finished[slug].append(FinishedRequest(started, time.time() - started, status))

    def by_slug(self) -> dict[str, dict[str, Any]]:
        """Return the number of requests in flight and a summary of the window, for each chute with any request."""
        now = time.time()
        result = {}
        for slug in {*self._in_flight, *self._finished}:
            recent = [each for each in self._finished.get(slug, ()) if each.started + each.duration >= now - WINDOW]
            result[slug] = {"in_flight": self._in_flight[slug], **summary(recent, min(WINDOW, now - self._created))}
        return result


def summary(requests: list[FinishedRequest], seconds: float) -> dict[str, Any]:
    """Summarize the requests of a period. Latencies are those of successful responses, in seconds."""
    durations = sorted(each.duration for each in requests if each.status < MIN_ERROR_STATUS)
    points = statistics.quantiles(durations, n=100, method="inclusive") if len(durations) > 1 else durations * 99
    return {
        "requests": len(requests),
        "per_minute": round(len(requests) * 60 / max(seconds, 1.0), 2),
        "errors": sum(each.status >= 500 for each in requests),
        "rejected": sum(each.status == 429 for each in requests),
        "disconnected": sum(each.status == CLIENT_CLOSED_REQUEST for each in requests),
        "latency_seconds": {f"p{at}": round(points[at - 1], 3) for at in (50, 95, 99)} if points else {},
    }
