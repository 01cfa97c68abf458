"""A hostile input as a row of data, and the ways to send it."""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.hostile.server import Server, wait_until
from benchmarks.hostile.wire import Part, Reply, connect, exchange, post, send

Outcome = int | str
"""An answer's status, or how a connection without one ended, as `closed`."""

CLOSED: frozenset[Outcome] = frozenset({"closed", "reset"})


@dataclass(frozen=True)
class Row:
    """An input, with the outcomes that are accepted for it."""

    section: str
    """The section of the threat model, such as `A1`; `-` for valid control requests."""
    name: str
    build: Callable[[], Iterable[Part]]
    """Build the bytes, before the measurement starts."""
    expects: frozenset[Outcome]
    answers: int = 1
    contains: bytes = b""
    """A text that the answer must contain, in lower case."""
    log_lacks: str = ""
    limit: float = 30.0
    """Seconds after which the attack is aborted."""
    half_close: bool = False
    ends: bool = False
    """Whether the server must end."""
    settings: Mapping[str, object] = field(default_factory=dict)
    attack: "Attack | None" = None


Attack = Callable[[Server, Row, Iterable[Part]], Coroutine[Any, Any, list[Reply]]]


async def once(server: Server, row: Row, parts: Iterable[Part]) -> list[Reply]:
    """Send the row on one connection."""
    return [await exchange(server.port, parts, answers=row.answers, limit=row.limit, half_close=row.half_close)]


def crowd(count: int) -> Attack:
    """Send the row on `count` connections at once."""

    async def attack(server: Server, row: Row, parts: Iterable[Part]) -> list[Reply]:
        copies = [row.build() for _ in range(count - 1)]  # a generator serves one connection
        return await asyncio.gather(
            *(exchange(server.port, each, answers=row.answers, limit=row.limit) for each in (parts, *copies))
        )

    return attack


def held(count: int, then: bytes) -> Attack:
    """Send the row on `count` connections without reading answers, and report the valid request `then`."""

    async def attack(server: Server, row: Row, parts: Iterable[Part]) -> list[Reply]:
        sent = list(parts)
        socks = [await connect(server.port, receive_buffer=4096) for _ in range(count)]
        sending = [asyncio.create_task(send(sock, sent)) for sock in socks]
        try:
            await asyncio.sleep(1)
            middle = len(then) // 2
            return [await exchange(server.port, [then[:middle], 0.1, then[middle:]], limit=row.limit)]
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
            for sock in socks:
                sock.close()

    return attack


def after_jobs(count: int, name: str, arguments: Mapping[str, object]) -> Attack:
    """Run `count` jobs, then send the row; `JOB_ID` in it is replaced by the last job's id."""

    async def attack(server: Server, row: Row, parts: Iterable[Part]) -> list[Reply]:
        begin = post(f"/jobs/{name}", json.dumps(arguments).encode())
        job_id, begun, deadline = b"", 0, time.monotonic() + row.limit
        while begun < count and time.monotonic() < deadline:
            reply = await exchange(server.port, [begin])
            if reply.status == 202:
                job_id = json.loads(reply.received.partition(b"\r\n\r\n")[2])["id"].encode()
                begun += 1
            else:
                await asyncio.sleep(0.02)
        await asyncio.to_thread(wait_until, lambda: server.metric("invocation_total", function=name) >= count)
        filled = [part if isinstance(part, float) else part.replace(b"JOB_ID", job_id) for part in parts]
        return await once(server, row, filled)

    return attack


async def while_stopping(server: Server, row: Row, parts: Iterable[Part]) -> list[Reply]:
    """Send the row, then SIGTERM; measure until the process ends, which must be with exit code 0."""
    asked = asyncio.create_task(exchange(server.port, parts, limit=row.limit))
    await asyncio.sleep(1)
    began = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    ended = await asyncio.to_thread(wait_until, lambda: server.process.poll() is not None, row.limit)
    reply = await asked
    reply.seconds = time.perf_counter() - began
    if not ended or server.process.returncode:
        reply.statuses, reply.ended = [], f"exit code {server.process.returncode}" if ended else "still running"
    return [reply]
