import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from benchmarks.harness.waiting import LIMIT, wait_for
from chutes.chute import Chute
from chutes.server import Settings, create_app


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the chute take as long for its own probe as a busy machine needs."""
    monkeypatch.setattr("chutes.server.runtime_routes._PROBE_TIMEOUT", LIMIT)


@pytest.fixture
def chute() -> Chute:
    return Chute(username="test", name="probes", image="none", concurrency=4)


@contextmanager
def serving(chute: Chute, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(chute, Settings(keys_file=tmp_path / "keys.json"))) as client:
        wait_for(lambda: client.get("/_conn_stats").json() and client.app.lifecycle.ready.is_set())  # type: ignore[attr-defined]
        yield client


def test_health_and_ready_report_the_state(chute: Chute, tmp_path: Path) -> None:
    chute.info = {"model": "tiny", "odd": math.nan, "path": Path("x"), "status": "mine"}
    with serving(chute, tmp_path) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.head("/health").status_code == 200
        assert client.get("/ready").json() == {"status": "ready", "model": "tiny", "odd": "nan", "path": "x"}
        assert client.head("/ready").status_code == 200
        chute.fail("poisoned")
        wait_for(lambda: client.get("/health").status_code == 503)
        assert client.get("/ready").json() == {"status": "failed"}


def test_metrics_of_a_request_are_reported(chute: Chute, tmp_path: Path) -> None:
    with serving(chute, tmp_path) as client:
        for path in ("/metrics", "/_metrics"):
            answer = client.get(path)
            assert answer.headers["content-type"].startswith("text/plain")
            assert f'chutes_ready{{chute_id="{chute.uid}"}} 1.0' in answer.text
        assert client.post("/_ping", json={"a": 1}).json() == {"a": 1}
        assert client.get("/_conn_stats").json() == {
            "concurrency": 4,
            "in_flight": 0,
            "queued": 0,
            "available": 4,
            "utilization": 0,
        }


def test_routes_of_the_chute_take_precedence(chute: Chute, tmp_path: Path) -> None:
    @chute.cord(public_api_path="/health", method="GET")
    async def health(self: Any) -> dict[str, str]:
        return {"mine": "health"}

    @chute.get("/metrics")
    async def metrics() -> str:
        return "my metrics"

    with serving(chute, tmp_path) as client:
        assert client.get("/health").json() == {"mine": "health"}
        assert client.get("/metrics").json() == "my metrics"
        assert client.get("/ready").json() == {"status": "ready"}


def test_a_post_cord_at_the_path_of_a_probe_does_not_replace_it(chute: Chute, tmp_path: Path) -> None:
    for name in ("health", "ready", "metrics"):

        @chute.cord(public_api_path=f"/{name}", path=name)
        async def mine(self: Any) -> str:
            return "mine"

    with serving(chute, tmp_path) as client:
        for path in ("/health", "/ready", "/metrics"):
            assert client.get(path).status_code == 200
            answer = client.post(path, json={})
            assert answer.json() == "mine"
            assert "x-chutes-conn-used" in answer.headers, "the cord took no slot"


def test_an_application_mounted_at_the_root_does_not_replace_the_probes(chute: Chute, tmp_path: Path) -> None:
    chute.mount("/", PlainTextResponse("page"))
    with serving(chute, tmp_path) as client:
        assert client.get("/").text == "page"
        assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("patient", [False, True])
def test_the_runtime_answers_for_a_probe_that_does_not(
    chute: Chute, tmp_path: Path, patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not patient:
        monkeypatch.setattr("chutes.server.runtime_routes._PROBE_TIMEOUT", 0.1)

    @chute.cord(public_api_path="/health", method="GET")
    async def health(self: Any) -> dict[str, str]:
        await asyncio.sleep(0.4 if patient else 3600)
        return {"mine": "health"}

    with serving(chute, tmp_path) as client:
        assert client.get("/health").json() == ({"mine": "health"} if patient else {"status": "ok"})


def test_while_loading_the_runtime_answers_for_the_chute(chute: Chute, tmp_path: Path) -> None:
    @chute.on_startup()
    async def load(self: Any) -> None:
        self.progress.update("weights", 1, 4, "GB")
        while not (tmp_path / "go").exists():
            time.sleep(0.01)  # noqa: ASYNC251 - as loading a model does

    @chute.cord(public_api_path="/ready", method="GET")
    async def ready(self: Any) -> str:
        return "mine"

    with TestClient(create_app(chute, Settings(keys_file=tmp_path / "keys.json"))) as client:
        wait_for(lambda: client.get("/ready").json().get("stage") == "weights")
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()["fraction"]) == (503, 0.25)
        assert answer.headers["retry-after"] == "1"
        (tmp_path / "go").touch()
        wait_for(lambda: client.get("/ready").status_code == 200)
        assert client.get("/ready").json() == "mine"
