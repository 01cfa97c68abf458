"""A queued client that disconnects is never started, and a running one frees its slot."""

import random
import socket
import time
from pathlib import Path

from benchmarks.harness.server import Server, serving, wait_for

STEPS = """
started, finished, cancelled, closed = [], [], [], []

@chute.cord(public_api_path="/draw")
async def draw(self, number: int, steps: int) -> int:
    started.append(number)
    try:
        for _ in range(steps):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        cancelled.append(number)
        raise
    finished.append(number)
    return number

@chute.cord(public_api_path="/stream", stream=True)
async def stream(self):
    try:
        while True:
            yield {"step": 1}
            await asyncio.sleep(0.01)
    finally:
        closed.append(1)

@chute.get("/seen")
async def seen() -> dict:
    seen = {"started": started, "finished": finished, "cancelled": cancelled, "closed": closed}
    return {**seen, "threads": threading.active_count()}
"""


def connect(server: Server, number: int, path: str = "/draw", steps: int = 100) -> socket.socket:
    """A client that has sent its request and does not read."""
    body = b'{"number": %d, "steps": %d}' % (number, steps)
    client = server.connect()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def idle(server: Server) -> bool:
    return server.metric("chutes_in_flight") == 0 and server.metric("chutes_queue_depth") == 0


def test_clients_disconnect_in_the_queue_and_while_running(tmp_path: Path) -> None:
    with serving(tmp_path, STEPS) as server:
        running = connect(server, 1, steps=10**6)  # runs for hours unless its client disconnects
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        queued = connect(server, 2, steps=10**6)
        wait_for(lambda: server.metric("chutes_queue_depth") == 1)

        queued.close()
        wait_for(lambda: server.metric("chutes_queue_depth") == 0)
        running.close()
        wait_for(lambda: server.metric("chutes_in_flight") == 0)

        assert server.post("/draw", json={"number": 3, "steps": 1}).json() == 3
        seen = server.get("/seen").json()
        assert seen["started"] == [1, 3]
        assert seen["cancelled"] == [1]
        assert seen["finished"] == [3]
        assert server.metric("invocation_total", function="draw", status="499") == 1


def test_two_hundred_clients_disconnect_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(7)
    with serving(tmp_path, STEPS, concurrency=2, queue_size=8) as server:
        assert server.post("/draw", json={"number": 0, "steps": 1}).status_code == 200
        threads_before = server.get("/seen").json()["threads"]
        waiting: list[socket.socket] = []
        for number in range(200):
            waiting.append(connect(server, number))
            time.sleep(chance.random() * 0.01)
            while len(waiting) > chance.randrange(12):
                waiting.pop(chance.randrange(len(waiting))).close()
        for client in waiting:
            client.close()
        wait_for(lambda: idle(server))
        seen = server.get("/seen").json()
        print(f"200 disconnected: {len(seen['started'])} started, {len(seen['cancelled'])} were cancelled")
        assert len(seen["started"]) == len(seen["cancelled"]) + len(seen["finished"])
        assert seen["threads"] <= threads_before + 2
        assert server.post("/draw", json={"number": 1, "steps": 1}).json() == 1


def test_a_stream_is_closed_when_its_client_disconnects(tmp_path: Path) -> None:
    with serving(tmp_path, STEPS) as server:
        reader = connect(server, 1, "/stream")
        assert b"200 OK" in reader.recv(1000)
        reader.close()
        wait_for(lambda: server.get("/seen").json()["closed"] == [1])
        wait_for(lambda: idle(server))
