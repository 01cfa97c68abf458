"""A handler that blocks inside `async def` delays no probe."""

import statistics
import threading
import time
from pathlib import Path

from tests.promises._server import serving, wait_for

BLOCKING = """
@chute.cord(public_api_path="/draw")
async def draw(self) -> str:
    time.sleep(1.5)
    return "drawn"

@chute.cord(public_api_path="/health", method="GET")
async def health(self) -> dict:
    return {"status": "my own"}
"""


def test_probes_answer_in_milliseconds_while_a_handler_blocks(tmp_path: Path) -> None:
    with serving(tmp_path, BLOCKING.partition('@chute.cord(public_api_path="/health"')[0]) as server:
        drawing = threading.Thread(target=server.post, args=("/draw",))
        drawing.start()
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        times = []
        while drawing.is_alive():
            began = time.perf_counter()
            assert server.get("/health").status_code == 200
            times.append((time.perf_counter() - began) * 1000)
        drawing.join()
        print(f"/health during a blocking handler: p50 {statistics.median(times):.1f} ms, max {max(times):.1f} ms")
        assert len(times) > 10
        assert statistics.median(times) < 100


def test_a_health_cord_of_the_chutes_own_wins_and_is_never_queued(tmp_path: Path) -> None:
    with serving(tmp_path, BLOCKING) as server:
        assert server.get("/health").json() == {"status": "my own"}
        drawing = threading.Thread(target=server.post, args=("/draw",))
        drawing.start()
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        began = time.perf_counter()
        answer = server.get("/health")
        took = time.perf_counter() - began
        drawing.join()
        assert answer.status_code == 200  # the authors' loop is blocked, so the runtime answers after a second
        assert took < 1.4
