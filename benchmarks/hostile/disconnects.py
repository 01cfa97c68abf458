"""Disconnect clients in every stage of a request, and check that the server then keeps none of their resources."""

import asyncio
import hashlib
import json
import random
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.hostile.report import report
from benchmarks.hostile.server import MIB, PICTURES, Server, serving, wait_until
from benchmarks.hostile.wire import connect, post

STAGES = {
    "connecting": "after connecting",
    "headers": "within the headers",
    "body": "within the body",
    "waiting": "while queued or running",
    "picture": "while an image was sent",
    "stream": "while a stream was sent",
}
AT_ONCE = 6
MEMORY_MARGIN = 64 * MIB
_REFERENCE = {"prompt": "a red apple", "seed": 15, "width": 256, "height": 256, "num_inference_steps": 4}
_SMALL = {"prompt": "a lighthouse", "seed": 1, "width": 128, "height": 128, "num_inference_steps": 3}
_LARGE = {"prompt": "a lighthouse", "seed": 1, "width": 1024, "height": 1024, "num_inference_steps": 1, "format": "png"}
_FIRST_BYTE = 60.0  # seconds


@dataclass(frozen=True)
class Resources:
    """The resources of an idle server."""

    threads: int
    descriptors: int
    memory: int

    @classmethod
    def by(cls, server: Server) -> "Resources":
        """Read the resources of a server."""
        return cls(server.threads(), server.descriptors(), server.memory())


async def disconnect_at(port: int, stage: str, chance: random.Random) -> None:
    """Open a connection, bring its request to a stage, and close it with FIN or RST."""
    request = post("/generate", json.dumps(_SMALL).encode())
    head_length = request.index(b"\r\n\r\n") + 4
    sock = await connect(port, receive_buffer=4096)
    try:
        loop = asyncio.get_running_loop()
        if stage == "headers":
            await loop.sock_sendall(sock, request[: chance.randrange(1, head_length)])
        elif stage == "body":
            await loop.sock_sendall(sock, request[: chance.randrange(head_length, len(request))])
        elif stage == "waiting":
            await loop.sock_sendall(sock, request)
        elif stage in {"picture", "stream"}:
            large = post("/generate", json.dumps(_LARGE).encode()) if stage == "picture" else post("/stream", b"")
            await loop.sock_sendall(sock, large)
            await asyncio.wait_for(loop.sock_recv(sock, chance.randrange(1, 2000)), _FIRST_BYTE)
        if stage != "connecting":
            await asyncio.sleep(chance.random() * 0.3)
    finally:
        if chance.random() < 0.5:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


async def disconnect(port: int, count: int, seed: int) -> Counter[str]:
    """Disconnect `count` clients, AT_ONCE in parallel, and return their number by stage."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    stages = iter([chance.choice(list(STAGES)) for _ in range(count)])

    async def keep_disconnecting(own: random.Random) -> None:
        for stage in stages:
            await disconnect_at(port, stage, own)
            counts[stage] += 1

    await asyncio.gather(*(keep_disconnecting(random.Random(chance.random())) for _ in range(AT_ONCE)))
    return counts


def reference(server: Server) -> str:
    """Draw the reference image, and return the hash of its bytes."""
    answer = httpx.post(f"{server.url}/generate", json=_REFERENCE, timeout=120, trust_env=False)
    answer.raise_for_status()
    return hashlib.sha256(answer.content).hexdigest()


def settle(server: Server, before: Resources | None = None) -> Resources:
    """Wait until the server is idle and surplus threads and sockets are closed, and return its resources."""
    wait_until(server.is_idle, 60)
    if before is None:
        time.sleep(2)
    else:
        wait_until(lambda: server.threads() <= before.threads and server.descriptors() <= before.descriptors, 60)
    return Resources.by(server)


def run(count: int, seed: int) -> dict[str, Any]:
    """Measure, print, and return the result."""
    with serving(PICTURES) as server:
        first = reference(server)
        asyncio.run(disconnect(server.port, max(60, count // 10), seed + 1))  # pools and caches fill up
        before = settle(server)
        queued, running = (server.metric("chutes_disconnects_total", stage=stage) for stage in ("queued", "running"))
        began = time.monotonic()
        counts = asyncio.run(disconnect(server.port, count, seed))
        took = time.monotonic() - began
        after = settle(server, before)
        queued = server.metric("chutes_disconnects_total", stage="queued") - queued
        running = server.metric("chutes_disconnects_total", stage="running") - running
        idle, last = server.is_idle(), reference(server)
    figures = {
        "disconnects": counts.total(),
        **{f"disconnected {STAGES[stage]}": counts[stage] for stage in STAGES},
        "seen by the server: queued": int(queued),
        "seen by the server: running": int(running),
        "seconds": round(took, 1),
        "threads before": before.threads,
        "threads after": after.threads,
        "descriptors before": before.descriptors,
        "descriptors after": after.descriptors,
        "memory before, MiB": round(before.memory / MIB, 1),
        "memory after, MiB": round(after.memory / MIB, 1),
    }
    targets = {
        "nothing runs or waits": idle,
        "some clients disconnect in the queue, others while their handler runs": queued > 0 and running > 0,
        "no more threads than before": after.threads <= before.threads,
        "no more descriptors than before": after.descriptors <= before.descriptors,
        f"memory within {MEMORY_MARGIN // MIB} MiB of before": after.memory - before.memory <= MEMORY_MARGIN,
        "the same bytes for the same seed": first == last,
    }
    return report("Disconnects", figures, targets)
