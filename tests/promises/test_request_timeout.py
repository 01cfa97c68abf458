"""A request that takes too long gets 504 on time, and its slot is free only when its handler has really ended."""

import time
from pathlib import Path

from tests.promises._server import serving, wait_for

SLOW = """
@chute.cord(public_api_path="/patient")
async def patient(self) -> str:
    await asyncio.sleep(30)
    return "done"

@chute.cord(public_api_path="/stubborn")
async def stubborn(self) -> str:
    time.sleep(1.5)
    return "done"

@chute.cord(public_api_path="/quick")
async def quick(self) -> str:
    return "done"
"""


def test_504_on_time_and_not_to_be_retried(tmp_path: Path) -> None:
    with serving(tmp_path, SLOW, request_timeout=0.5) as server:
        for path in ("/patient", "/stubborn"):
            began = time.perf_counter()
            answer = server.post(path)
            took = time.perf_counter() - began
            print(f"{path}: {answer.status_code} after {took:.2f} s")
            assert answer.status_code == 504
            assert answer.headers["x-should-retry"] == "false"
            assert answer.json()["code"] == "timeout"
            assert 0.4 < took < 1.2
        # The stubborn handler still blocks: its slot is not given to anybody else.
        assert server.metric("chutes_in_flight") == 1
        wait_for(lambda: server.metric("chutes_in_flight") == 0)
        assert server.post("/quick").json() == "done"


def test_waiting_in_line_is_bounded_too(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with serving(tmp_path, SLOW, queue_timeout=0.3) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, "/stubborn")
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        answer = server.post("/quick")
        assert answer.status_code == 503
        assert answer.json()["code"] == "queue_timeout"
        assert int(answer.headers["retry-after"]) >= 1
        assert first.result().json() == "done"
