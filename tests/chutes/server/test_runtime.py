import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.testclient import TestClient

from benchmarks.harness.waiting import wait_for
from chutes.chute import Chute
from chutes.exception import UpstreamUnavailable
from chutes.server import Runtime, Settings, create_app
from chutes.server.logs import request_id


class Picture(BaseModel):
    prompt: str


@pytest.fixture
def chute() -> Chute:
    chute = Chute(username="test", name="app", image="none", concurrency=2)
    chute.add_middleware(CORSMiddleware, allow_origins=["https://a.example"])

    @chute.middleware("http")
    async def mark(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["X-Mine"] = "yes"
        return response

    @chute.cord(public_api_path="/draw")
    async def draw(self: Any, picture: Picture) -> dict[str, str]:
        logging.getLogger("author").warning("drawing")
        return {"id": request_id.get(), "prompt": picture.prompt}

    @chute.cord(public_api_path="/plain")
    def plain(self: Any) -> str:
        return request_id.get()

    @chute.cord(public_api_path="/v1/down")
    async def down(self: Any) -> None:
        raise UpstreamUnavailable

    @chute.cord(public_api_path="/v1/crash")
    async def crash(self: Any) -> None:
        raise RuntimeError("secret")

    return chute


@pytest.fixture
def client(chute: Chute, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(chute, Settings(keys_file=tmp_path / "keys.json"))) as client:
        wait_for(lambda: client.get("/ready").status_code == 200)
        yield client


def test_the_authors_log_lines_have_the_request_id(client: TestClient) -> None:
    answer = client.post("/draw", json={"prompt": "x"}, headers={"X-Request-ID": "mine-1"})
    assert answer.json() == {"id": "mine-1", "prompt": "x"}
    assert answer.headers["x-request-id"] == "mine-1"
    assert client.post("/plain", headers={"X-Request-ID": "mine-2"}).json() == "mine-2"


def test_the_authors_middleware_and_documentation_pages_work(client: TestClient) -> None:
    answer = client.post("/draw", json={"prompt": "x"}, headers={"Origin": "https://a.example"})
    assert answer.headers["x-mine"] == "yes"
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert "/draw" in client.get("/openapi.json").json()["paths"]
    assert client.get("/docs").status_code == 200
    assert "x-mine" not in client.get("/health").headers


def test_errors_have_the_form_of_their_path(client: TestClient) -> None:
    assert client.post("/draw", json={}).json()["detail"][0]["loc"] == ["body", "prompt"]
    down = client.post("/v1/down")
    assert (down.status_code, down.json()["error"]["code"]) == (502, "upstream_unavailable")
    crash = client.post("/v1/crash")
    assert (crash.status_code, crash.json()["error"]["type"]) == (500, "server_error")
    assert crash.headers["x-request-id"] in crash.json()["error"]["message"]
    assert "secret" not in crash.text


def test_a_chute_can_be_served_twice(chute: Chute, tmp_path: Path) -> None:
    for _ in range(2):
        with TestClient(create_app(chute, Settings(keys_file=tmp_path / "keys.json"))) as client:
            wait_for(lambda client=client: client.get("/ready").status_code == 200)
            assert client.post("/draw", json={"prompt": "x"}).status_code == 200


def test_a_chute_that_was_served_runs_its_hooks_in_a_test_client(tmp_path: Path) -> None:
    chute = Chute("myuser", "again", "img")
    started: list[str] = []
    chute.on_startup()(lambda: started.append("once more"))
    with TestClient(create_app(chute, Settings(keys_file=tmp_path / "keys.json"))) as client:
        wait_for(lambda: client.get("/ready").status_code == 200)
    with TestClient(chute):
        assert len(started) == 2


def test_the_process_can_drain_and_read_admission(chute: Chute) -> None:
    runtime = create_app(chute)
    assert isinstance(runtime, Runtime)
    assert (runtime.chute, runtime.admission.concurrency) == (chute, 2)
    assert runtime.lifecycle.state == "loading"
    assert chute.lifecycle_managed
