"""A request over the time limit gets 504, and its slot is released when its handler has ended."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness.server import serving, wait_for

SLOW = """
from pathlib import Path

@chute.cord(public_api_path="/patient")
async def patient(self) -> str:
    await asyncio.sleep(3600)
    return "done"

@chute.cord(public_api_path="/stubborn")
async def stubborn(self) -> str:
    while not Path("go").exists():
        time.sleep(0.01)
    return "done"

@chute.cord(public_api_path="/quick")
async def quick(self) -> str:
    return "done"
"""


def test_a_timeout_is_504_and_should_not_be_retried(tmp_path: Path) -> None:
    with serving(tmp_path, SLOW, request_timeout=2) as server:
        for path in ("/patient", "/stubborn"):
            answer = server.post(path)
            assert answer.status_code == 504
            assert answer.headers["x-should-retry"] == "false"
            assert answer.json()["code"] == "timeout"
        # The handler still blocks, so no other request gets its slot.
        assert server.metric("chutes_in_flight") == 1
        (tmp_path / "go").touch()
        wait_for(lambda: server.metric("chutes_in_flight") == 0)
        assert server.post("/quick").json() == "done"


def test_waiting_in_the_queue_is_limited(tmp_path: Path) -> None:
    with serving(tmp_path, SLOW, queue_timeout=0.3) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, "/stubborn")
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        answer = server.post("/quick")
        assert answer.status_code == 503
        assert answer.json()["code"] == "queue_timeout"
        assert int(answer.headers["retry-after"]) >= 1
        (tmp_path / "go").touch()
        assert first.result().json() == "done"
