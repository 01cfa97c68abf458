"""Probes answer in time while a handler blocks inside `async def`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness.server import serving, wait_for

BLOCKING = """
from pathlib import Path

@chute.cord(public_api_path="/draw")
async def draw(self) -> str:
    while not Path("go").exists():
        time.sleep(0.01)
    return "drawn"
"""

OWN_HEALTH = """
@chute.cord(public_api_path="/health", method="GET")
async def health(self) -> dict:
    return {"status": "my own"}
"""


def test_probes_answer_while_a_handler_blocks(tmp_path: Path) -> None:
    with serving(tmp_path, BLOCKING) as server, ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(server.post, "/draw")
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        for _ in range(20):
            assert server.get("/health").json() == {"status": "ok"}
            assert server.get("/ready").status_code == 200
        assert server.metric("chutes_in_flight") == 1
        assert not drawing.done()
        (tmp_path / "go").touch()
        assert drawing.result().json() == "drawn"


def test_the_chutes_own_health_cord_takes_precedence_and_is_never_queued(tmp_path: Path) -> None:
    with serving(tmp_path, BLOCKING + OWN_HEALTH) as server, ThreadPoolExecutor(1) as pool:
        wait_for(lambda: server.get("/health").json() == {"status": "my own"})
        drawing = pool.submit(server.post, "/draw")
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        answer = server.get("/health")
        assert not drawing.done()
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})  # answered by the runtime
        (tmp_path / "go").touch()
        assert drawing.result().json() == "drawn"
        wait_for(lambda: server.get("/health").json() == {"status": "my own"})
