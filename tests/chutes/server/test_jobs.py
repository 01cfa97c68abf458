import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from prometheus_client import REGISTRY
from pydantic import BaseModel
from starlette.testclient import TestClient

from chutes.chute import Chute
from chutes.exception import Fatal
from chutes.server import Settings, create_app
from chutes.server.jobs import Record
from tests.promises._server import wait_for

COUNTED = {"chute_id": Chute(username="test", name="jobs", image="none").uid, "reason": "queue_full"}


class Training(BaseModel):
    steps: int
    rate: float = 0.1


@pytest.fixture
def chute() -> Chute:
    chute = Chute(username="test", name="jobs", image="none", concurrency=1)
    chute.gate = asyncio.Event()  # type: ignore[attr-defined]

    @chute.job()
    async def train(self: Any, params: Training, output_dir: str = "") -> dict[str, Any]:
        (Path(output_dir) / "sub").mkdir()
        (Path(output_dir) / "sub" / "weights.txt").write_text("w")
        return {"steps": params.steps}

    @chute.job()
    async def wait(self: Any) -> str:
        await asyncio.sleep(60)
        return "never"

    @chute.job(timeout=30)
    async def fail(self: Any, how: str) -> None:
        if how == "http":
            raise HTTPException(400, "no such data set")
        if how == "timeout":
            raise TimeoutError("a data base that does not answer")  # theirs; the job's own time was not over
        if how == "fatal":
            raise Fatal("poisoned")
        raise RuntimeError("secret of /home/me")

    return chute


@pytest.fixture
def client(chute: Chute, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(keys_file=tmp_path / "keys.json", queue_size=1, jobs_kept=2)
    with TestClient(create_app(chute, settings)) as client:
        wait_for(lambda: client.get("/ready").status_code == 200)
        yield client


def begin(client: TestClient, name: str, **data: Any) -> str:
    answer = client.post(f"/jobs/{name}", json=data)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    return str(answer.json()["id"])


def after(client: TestClient, job: str) -> dict[str, Any]:
    def over() -> bool:
        return client.get(f"/jobs/{job}").json()["status"] not in {"queued", "running", "cancelling"}

    wait_for(over, 10)
    return dict(client.get(f"/jobs/{job}").json())


def test_a_job_runs_and_its_result_and_files_can_be_fetched(client: TestClient) -> None:
    job = begin(client, "train", steps=3)
    told = after(client, job)
    assert (told["status"], told["result"], told["detail"]) == ("complete", {"steps": 3}, None)
    assert told["created"] <= told["started"] <= told["finished"]
    assert told["files"] == ["sub/weights.txt"]
    assert client.get(f"/jobs/{job}/files/sub/weights.txt").text == "w"
    for outside in ("../x", "sub/../../x", "%2e%2e/x", "sub", "nothing"):
        assert client.get(f"/jobs/{job}/files/{outside}").status_code == 404


def test_what_went_wrong_is_told_as_far_as_clients_may_know(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert after(client, begin(client, "fail", how="http"))["detail"] == "no such data set"
    told = after(client, begin(client, "fail", how="crash"))
    assert (told["status"], "secret" in str(told)) == ("error", False)
    assert "secret of /home/me" in caplog.text
    told = after(client, begin(client, "fail", how="timeout"))
    assert (told["status"], told["detail"]) == ("error", "The job failed; its log says why")
    assert "a data base" in caplog.text


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/jobs/nothing", {}, 404),
        ("/jobs/train", {"steps": "many"}, 422),
        ("/jobs/train", {}, 422),
        ("/jobs/fail", {}, 422),
        ("/jobs/fail", {"how": "x", "why": "y"}, 422),
        ("/jobs/train", [1], 422),
    ],
)
def test_what_cannot_begin(client: TestClient, path: str, data: Any, status: int) -> None:
    answer = client.post(path, json=data)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert client.get("/jobs").json() == {"jobs": []}


def test_arguments_that_are_not_declared_as_json_are_415(client: TestClient) -> None:
    answer = client.post("/jobs/train", content=b'{"steps": 1}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, client.get("/jobs").json()) == (415, {"jobs": []})


@pytest.mark.parametrize(
    ("name", "data", "field"), [("train", b'{"steps": 1, "rate": NaN}', "rate"), ("fail", b'{"how": "\\ud800"}', "how")]
)
def test_arguments_that_are_no_json_are_422(client: TestClient, name: str, data: bytes, field: str) -> None:
    answer = client.post(f"/jobs/{name}", content=data, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", field])
    assert client.get("/jobs").json() == {"jobs": []}


def test_a_job_that_is_turned_away_is_counted(client: TestClient) -> None:
    for _ in range(2):
        begin(client, "wait")
    before = REGISTRY.get_sample_value("chutes_rejections_total", COUNTED) or 0
    assert client.post("/jobs/wait", json={}).status_code == 429
    assert REGISTRY.get_sample_value("chutes_rejections_total", COUNTED) == before + 1


def test_jobs_share_the_slots_and_the_line(client: TestClient) -> None:
    running, queued = begin(client, "wait"), begin(client, "wait")
    wait_for(lambda: client.get(f"/jobs/{running}").json()["status"] == "running")
    assert client.get(f"/jobs/{queued}").json()["status"] == "queued"
    refused = client.post("/jobs/wait", json={})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1

    assert client.delete(f"/jobs/{queued}").status_code == 202
    assert after(client, queued)["status"] == "cancelled"
    began = time.monotonic()
    assert client.delete(f"/jobs/{running}").status_code == 202
    assert after(client, running)["status"] == "cancelled"
    assert time.monotonic() - began < 5
    assert client.get("/_conn_stats").json()["in_flight"] == 0


def test_a_job_that_gets_no_folder_gives_its_slot_back(
    chute: Chute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(chute, Settings(keys_file=tmp_path / "keys.json"))
    with TestClient(app, raise_server_exceptions=False) as client, monkeypatch.context() as broken:
        wait_for(lambda: client.get("/ready").status_code == 200)
        broken.setattr(tempfile, "tempdir", str(tmp_path / "lost"))
        assert client.post("/jobs/wait", json={}).status_code == 500
        assert client.get("/_conn_stats").json()["in_flight"] == 0
        assert client.get("/jobs").json() == {"jobs": []}


def test_a_job_that_raises_fatal_fails_the_chute(client: TestClient) -> None:
    told = after(client, begin(client, "fail", how="fatal"))
    assert (told["status"], told["detail"]) == ("error", "poisoned")
    wait_for(lambda: client.get("/health").status_code == 503, 5)


def test_deleting_one_that_is_over_forgets_it(client: TestClient) -> None:
    job = begin(client, "train", steps=1)
    after(client, job)
    assert client.delete(f"/jobs/{job}").status_code == 204
    assert client.get(f"/jobs/{job}").status_code == 404
    assert client.delete(f"/jobs/{job}").status_code == 404


def test_files_are_looked_for_once_and_removed_with_their_job(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    job = begin(client, "train", steps=3)
    after(client, job)
    monkeypatch.setattr(Record, "list_files", lambda record: pytest.fail("looked again"))
    assert client.get("/jobs").json()["jobs"][0]["files"] == ["sub/weights.txt"]
    [written] = tmp_path.glob("chutes-job-*/sub/weights.txt")
    assert client.get(f"/jobs/{job}/files/sub/weights.txt").status_code == 200
    assert client.delete(f"/jobs/{job}").status_code == 204
    wait_for(lambda: not written.parent.parent.exists(), 10)


def test_only_so_many_are_kept_the_newest_first(client: TestClient) -> None:
    begun = []
    for steps in range(4):
        begun.append(begin(client, "train", steps=steps))
        after(client, begun[-1])
    begun.append(begin(client, "train", steps=4))
    after(client, begun[-1])
    assert [told["id"] for told in client.get("/jobs").json()["jobs"]] == [begun[4], begun[3], begun[2]]


def test_jobs_are_counted(client: TestClient) -> None:
    after(client, begin(client, "train", steps=1))
    assert "invocation_total{" in client.get("/metrics").text
    assert 'function="train",status="complete"' in client.get("/metrics").text


def test_a_chute_without_jobs_has_no_such_routes(tmp_path: Path) -> None:
    chute = Chute(username="test", name="none", image="none")
    with TestClient(create_app(chute, Settings(keys_file=tmp_path / "keys.json"))) as client:
        assert client.get("/jobs").status_code == 404
