"""On SIGTERM running requests finish, others are rejected, and the process exits with 0."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.harness.server import serving, wait_for
from benchmarks.harness.waiting import LIMIT

GATED = """
from pathlib import Path

@chute.cord(public_api_path="/draw")
async def draw(self) -> str:
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return "drawn"

@chute.cord(public_api_path="/block")
async def block(self) -> str:
    time.sleep(3600)
    return "never"

@chute.on_shutdown()
async def put_away(self):
    Path("put-away").touch()
"""


def test_running_requests_finish_and_queued_and_new_ones_are_rejected(tmp_path: Path) -> None:
    with serving(tmp_path, GATED) as server, ThreadPoolExecutor(2) as pool:
        running = pool.submit(server.post, "/draw")
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        queued = pool.submit(server.post, "/draw")
        wait_for(lambda: server.metric("chutes_queue_depth") == 1)

        server.signal()
        assert queued.result(LIMIT).status_code == 503
        assert server.get("/ready").status_code == 503
        assert server.get("/health").status_code == 200
        new = server.post("/draw")
        assert new.status_code == 503
        assert new.headers["connection"] == "close"
        assert new.json()["code"] == "draining"

        (tmp_path / "go").touch()
        assert running.result(LIMIT).json() == "drawn"
        assert server.wait() == 0
        assert (tmp_path / "put-away").exists()


def test_an_idle_server_exits_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, GATED, drain_grace=86_400) as server:
        server.signal()
        assert server.wait() == 0


def test_the_grace_period_ends_even_a_blocking_handler(tmp_path: Path) -> None:
    with serving(tmp_path, GATED, drain_grace=1) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, "/block")
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        server.signal()
        assert server.wait() == 5
        assert running.exception(LIMIT) or running.result().status_code == 503


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, GATED, drain_grace=86_400) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, "/draw")
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        server.signal()
        wait_for(lambda: server.get("/ready").status_code == 503)
        server.signal()
        assert server.wait() == 5
        assert running.exception(LIMIT) or running.result().status_code == 503


def test_uploads_in_progress_are_rejected_at_once(tmp_path: Path) -> None:
    head = b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    unfinished = [head + b"{", head, head[:30], b""]
    with serving(tmp_path, GATED, drain_grace=600) as server:
        peers = [server.connect() for _ in unfinished]
        for peer, sent in zip(peers, unfinished, strict=True):
            peer.sendall(sent)
        assert server.get("/health").status_code == 200  # earlier bytes have been read
        server.signal()
        answers = [b"".join(iter(lambda peer=peer: peer.recv(4096), b"")) for peer in peers]
        assert server.wait() == 0
        for peer in peers:
            peer.close()
    assert all(answer.startswith(b"HTTP/1.1 503") and b'"draining"' in answer for answer in answers[:2])
    assert answers[2:] == [b"", b""]  # these had not sent a request yet


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_import_exits_with_0(tmp_path: Path, number: signal.Signals) -> None:
    slow = "open('importing', 'w').close()\ntry:\n    time.sleep(600)\nexcept Exception:\n    pass\n"
    with serving(tmp_path, slow, wait=False) as server:
        wait_for((tmp_path / "importing").exists)
        server.signal(number)
        assert server.wait() == 0
