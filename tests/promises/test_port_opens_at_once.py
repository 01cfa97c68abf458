"""The port opens at once: `/health` answers while the model loads, and cords answer with `Retry-After`."""

from pathlib import Path

from benchmarks.harness.server import serving, wait_for

LOADING = """
from pathlib import Path

@chute.on_startup()
async def load(self):
    self.progress.update("reading weights", 3, 12, "GB")
    while not Path("go").exists():  # blocks the event loop, like loading a model
        time.sleep(0.01)
    self.info["model"] = "tiny"

@chute.cord(public_api_path="/hello")
async def hello(self) -> str:
    return "hello"
"""


def test_health_answers_while_the_chute_loads_and_ready_afterwards(tmp_path: Path) -> None:
    with serving(tmp_path, LOADING, wait=False) as server:
        server.wait_for_port()
        wait_for(lambda: server.get("/ready").json().get("stage") == "reading weights")
        for _ in range(20):  # while the hook blocks its event loop
            assert server.get("/health").status_code == 200
        loading = server.get("/ready")
        assert loading.status_code == 503
        assert loading.json() == {
            "status": "loading",
            "stage": "reading weights",
            "done": 3,
            "total": 12,
            "unit": "GB",
            "fraction": 0.25,
        }

        refused = server.post("/hello")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "reading weights" in refused.json()["detail"]

        (tmp_path / "go").touch()
        server.wait_until_ready()
        assert server.get("/ready").json() == {"status": "ready", "model": "tiny"}
        assert server.post("/hello").json() == "hello"


def test_a_signal_ends_a_blocking_load(tmp_path: Path) -> None:
    with serving(tmp_path, LOADING, wait=False) as server:
        server.wait_for_port()
        wait_for(lambda: server.get("/ready").json().get("stage") == "reading weights")
        server.signal()
        assert server.wait() == 0
