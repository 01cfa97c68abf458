"""Jobs, slow clients and shutdown (A6, A7, A8)."""

from collections.abc import Callable, Iterator

from benchmarks.hostile.attack import CLOSED, Outcome, Row, after_jobs, crowd, held, while_stopping
from benchmarks.hostile.rows.bodies import KIB, LIMIT, MIB, OK, prompt
from benchmarks.hostile.wire import Part, get, head, post

TIMEOUT: frozenset[Outcome] = frozenset({408})
MISSING: frozenset[Outcome] = frozenset({404})


def announced(size: int) -> bytes:
    """Build the head of a POST that announces a body."""
    return head("POST", "/generate", "Content-Type: application/json", f"Content-Length: {size}")


def trickle(first: bytes, piece: bytes, every: float) -> Callable[[], Iterator[Part]]:
    """Send `first`, then `piece` every few seconds without end."""

    def parts() -> Iterator[Part]:
        yield first
        while True:
            yield every
            yield piece

    return parts


def ranges(count: int) -> bytes:
    """Request `count` ranges of a job's file."""
    asked = ",".join(f"{at * 2}-{at * 2}" for at in range(count))
    return get("/jobs/JOB_ID/files/picture.bin", f"Range: bytes={asked}")


ROWS = [
    # A6: jobs.
    Row(
        "A6",
        "`GET /jobs` after 40 jobs with results of 4 MB",
        lambda: [get("/jobs")],
        OK,
        attack=after_jobs(40, "report", {"megabytes": 4}),
    ),
    Row(
        "A6",
        "a job with a result of 100 MB",
        lambda: [get("/jobs/JOB_ID")],
        OK,
        attack=after_jobs(1, "report", {"megabytes": 100}),
    ),
    Row(
        "A6",
        "a job's link to `/etc/passwd`",
        lambda: [get("/jobs/JOB_ID/files/outside")],
        MISSING,
        attack=after_jobs(1, "files", {}),
    ),
    Row(
        "A6",
        "a path out of a job's folder",
        lambda: [get("/jobs/JOB_ID/files/..%2f..%2fetc%2fpasswd")],
        MISSING,
        attack=after_jobs(1, "files", {}),
    ),
    Row(
        "A6",
        "5 000 ranges of a job's file",
        lambda: [ranges(5000)],
        OK | {206, 400, 416, 431},
        attack=after_jobs(1, "files", {}),
    ),
    # A7: slow clients.
    Row("A7", "200 connections that send nothing", list, TIMEOUT | CLOSED, limit=60, attack=crowd(200)),
    Row(
        "A7",
        "200 connections that send a header byte a second",
        trickle(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\na: ", b"x", 1.0),
        TIMEOUT,
        limit=60,
        attack=crowd(200),
    ),
    Row(
        "A7",
        "one connection that sends a header byte a second after a response",
        trickle(get("/health") + b"GET /health HTTP/1.1\r\na: ", b"x", 1.0),
        OK | TIMEOUT,
        answers=2,
        limit=60,
    ),
    Row("A7", "a body of 1 MB at a byte a second", trickle(announced(MIB) + b"{", b" ", 1.0), TIMEOUT, limit=60),
    Row("A7", "a half-sent body", lambda: [announced(100 * KIB) + b" " * 50 * KIB], TIMEOUT, limit=60),
    Row(
        "A7",
        "a valid upload beside 17 half-sent bodies",
        lambda: [announced(200 * KIB) + b" " * 100 * KIB],
        OK,
        limit=60,
        attack=held(17, post("/generate", prompt(MIB))),
    ),
    Row(
        "A7",
        "8 bodies of 64 MiB, each without its last KiB",
        lambda: [announced(LIMIT), b" " * (LIMIT - KIB)],
        TIMEOUT | {429},
        limit=150,
        attack=crowd(8),
    ),
    Row(
        "A7",
        "a valid request behind a stream that nobody reads",
        lambda: [post("/stream", b"")],
        OK,
        limit=60,
        attack=held(1, post("/wait", b'{"seconds": 0.01}')),
    ),
    Row(
        "A7",
        "a valid request behind a response of 32 MiB that nobody reads",
        lambda: [post("/large", b"")],
        OK,
        limit=60,
        attack=held(1, post("/wait", b'{"seconds": 0.01}')),
    ),
    # A8: shutdown.
    Row(
        "A8",
        "SIGTERM during a half-sent body",
        lambda: [announced(MIB) + b" " * KIB],
        frozenset({503}),
        ends=True,
        attack=while_stopping,
    ),
]
