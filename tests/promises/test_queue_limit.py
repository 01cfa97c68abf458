"""With one slot and a queue of N, request N + 2 is rejected at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness.server import serving, wait_for

SLOW = """
gate = threading.Event()
started = []

@chute.cord(public_api_path="/draw")
async def draw(self, number: int) -> int:
    started.append(number)
    await asyncio.to_thread(gate.wait)
    return number

@chute.cord(public_api_path="/v1/draw")
async def openai_draw(self) -> str:
    return ""

@chute.post("/open")
async def open_gate() -> list[int]:
    gate.set()
    return started
"""

QUEUE = 3


def test_a_request_beyond_the_full_queue_is_rejected_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, SLOW, queue_size=QUEUE) as server, ThreadPoolExecutor(QUEUE + 1) as pool:
        taken = []
        for number in range(QUEUE + 1):
            taken.append(pool.submit(server.post, "/draw", json={"number": number}))
            wait_for(
                lambda number=number: (
                    server.metric("chutes_in_flight") + server.metric("chutes_queue_depth") == number + 1
                )
            )

        refused = server.post("/draw", json={"number": 99})
        assert refused.status_code == 429
        assert not any(answer.done() for answer in taken)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-chutes-conn-used"] == "1"
        assert refused.headers["x-chutes-conn-available"] == "0"
        assert refused.headers["x-chutes-conn-utilization"] == "1.00"
        assert refused.json()["code"] == "queue_full"

        openai = server.post("/v1/draw")
        assert openai.status_code == 429
        assert set(openai.json()["error"]) == {"message", "type", "code", "param"}
        assert server.get("/health").status_code == 200
        assert server.metric("chutes_rejections_total", reason="queue_full") == 2

        server.post("/open")
        assert [answer.result().json() for answer in taken] == list(range(QUEUE + 1))
        assert server.post("/open").json() == list(range(QUEUE + 1))  # in the order of arrival
        assert server.metric("chutes_queue_wait_seconds_count") == QUEUE + 1
