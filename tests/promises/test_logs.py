"""Every line that is logged for a request has its id, and every request has one line."""

from pathlib import Path

from benchmarks.harness.server import serving, wait_for

TALKING = """
import logging
log = logging.getLogger("my.chute")

@chute.on_startup()
def load(self):
    log.info("loading")

@chute.cord(public_api_path="/talk")
async def talk(self) -> str:
    log.info("on the authors' loop", extra={"step": 1})
    await asyncio.to_thread(log.info, "in a thread of theirs")
    return "said"

@chute.cord(public_api_path="/plain")
def plain(self) -> str:
    log.info("in the pool")
    return "said"
"""


def test_every_line_of_a_request_has_its_id(tmp_path: Path) -> None:
    with serving(tmp_path, TALKING) as server:
        for path, lines in (("/talk", 3), ("/plain", 2)):
            answer = server.post(path, headers={"X-Request-ID": f"id-of{path}"})
            assert answer.headers["x-request-id"] == f"id-of{path}"
            wait_for(lambda path=path: any(line.get("path") == path for line in server.log))
            mine = [line for line in server.log if line.get("request_id") == f"id-of{path}"]
            print([line["message"] for line in mine])
            assert len(mine) == lines
            assert mine[0]["logger"] == "my.chute"
            assert mine[-1]["logger"] == "chutes.access"
            assert (mine[-1]["method"], mine[-1]["path"], mine[-1]["status"]) == ("POST", path, 200)
            assert mine[-1]["ms"] > 0
        server.get("/health")
        assert not [line for line in server.log if line.get("path") == "/health"]
        server.signal()
        assert server.wait() == 0
        assert all(isinstance(line["timestamp"], str) for line in server.log)
