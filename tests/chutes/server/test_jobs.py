import asyncio
import gc
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from prometheus_client import REGISTRY
from pydantic import BaseModel
from starlette.testclient import TestClient

from benchmarks.harness.waiting import wait_for
from chutes.chute import Chute
from chutes.exception import Fatal
from chutes.server import Settings, create_app
from chutes.server import jobs as jobs_module
from chutes.server.job_files import list_files

COUNTED = {"chute_id": Chute(username="test", name="jobs", image="none").uid, "reason": "queue_full"}


class Tensor:
    """A large object in a variable of an author's function."""


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
            raise TimeoutError("a database that does not answer")  # the author's own, not the job's time limit
        if how == "fatal":
            raise Fatal("poisoned")
        raise RuntimeError("secret of /home/me")

    add_hostile_jobs(chute)
    return chute


def add_hostile_jobs(chute: Chute) -> None:
    @chute.job()
    def write(self: Any, size: int, output_dir: str = "") -> str:
        (Path(output_dir) / "file").write_text("0123456789")
        return "x" * size

    @chute.job()
    def block(self: Any, kind: str, target: str, output_dir: str = "") -> None:
        outcome = Path(output_dir).parent / "outcome"
        {"pipe": os.mkfifo, "link": lambda path: path.symlink_to(target), "folder": Path.mkdir}[kind](outcome)

    @chute.job()
    def contain_itself(self: Any) -> list[Any]:
        result: list[Any] = []
        result.append(result)
        return result

    @chute.job()
    def reject(self: Any, what: str = "", half_pair: bool = False) -> None:
        raise HTTPException(400, "half \ud800" if half_pair else what)

    @chute.job()
    def hold(self: Any) -> None:
        tensor = Tensor()
        self.held = weakref.ref(tensor)
        raise ValueError(str(tensor))

    @chute.job()
    def link(self: Any, target: str, output_dir: str = "") -> None:
        folder = Path(output_dir)
        (folder / "real").write_text("fine")
        (folder / "inside").symlink_to("real")
        (folder / "file").symlink_to(f"{target}/secret")
        (folder / "folder").symlink_to(target)
        (folder / "up").symlink_to("..")
        os.mkfifo(folder / "pipe")


@pytest.fixture
def client(chute: Chute, tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(keys_file=tmp_path / "keys.json", queue_size=1, jobs_kept=2, max_job_result_bytes=1000)
    with TestClient(create_app(chute, settings)) as client:
        wait_for(lambda: client.get("/ready").status_code == 200)
        yield client


def submit(client: TestClient, name: str, **data: Any) -> str:
    answer = client.post(f"/jobs/{name}", json=data)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    return str(answer.json()["id"])


def wait_for_end(client: TestClient, job: str) -> dict[str, Any]:
    def ended() -> bool:
        return client.get(f"/jobs/{job}").json()["status"] not in {"queued", "running", "cancelling"}

    wait_for(ended)
    return dict(client.get(f"/jobs/{job}").json())


def test_a_job_runs_and_its_result_and_files_can_be_fetched(client: TestClient) -> None:
    job = submit(client, "train", steps=3)
    record = wait_for_end(client, job)
    assert (record["status"], record["result"], record["detail"]) == ("complete", {"steps": 3}, None)
    assert record["created"] <= record["started"] <= record["finished"]
    assert record["files"] == ["sub/weights.txt"]
    assert client.get(f"/jobs/{job}/files/sub/weights.txt").text == "w"
    for outside in ("../x", "sub/../../x", "%2e%2e/x", "sub", "nothing"):
        assert client.get(f"/jobs/{job}/files/{outside}").status_code == 404


def test_an_error_is_reported_without_internals(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    assert wait_for_end(client, submit(client, "fail", how="http"))["detail"] == "no such data set"
    record = wait_for_end(client, submit(client, "fail", how="crash"))
    assert (record["status"], "secret" in str(record)) == ("error", False)
    assert "secret of /home/me" in caplog.text
    record = wait_for_end(client, submit(client, "fail", how="timeout"))
    assert (record["status"], record["detail"]) == ("error", "The job failed. The log has the reason.")
    assert "a database" in caplog.text


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
def test_a_job_that_cannot_start_is_rejected(client: TestClient, path: str, data: Any, status: int) -> None:
    answer = client.post(path, json=data)
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert client.get("/jobs").json() == {"jobs": []}


def test_arguments_without_a_json_media_type_are_415(client: TestClient) -> None:
    answer = client.post("/jobs/train", content=b'{"steps": 1}', headers={"Content-Type": "text/plain"})
    assert (answer.status_code, client.get("/jobs").json()) == (415, {"jobs": []})


@pytest.mark.parametrize(
    ("name", "data", "field"), [("train", b'{"steps": 1, "rate": NaN}', "rate"), ("fail", b'{"how": "\\ud800"}', "how")]
)
def test_arguments_that_are_not_json_are_422(client: TestClient, name: str, data: bytes, field: str) -> None:
    answer = client.post(f"/jobs/{name}", content=data, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", field])
    assert client.get("/jobs").json() == {"jobs": []}


def test_a_rejected_job_is_counted(client: TestClient) -> None:
    for _ in range(2):
        submit(client, "wait")
    before = REGISTRY.get_sample_value("chutes_rejections_total", COUNTED) or 0
    assert client.post("/jobs/wait", json={}).status_code == 429
    assert REGISTRY.get_sample_value("chutes_rejections_total", COUNTED) == before + 1


def test_jobs_share_the_slots_and_the_queue_with_requests(client: TestClient) -> None:
    running, queued = submit(client, "wait"), submit(client, "wait")
    wait_for(lambda: client.get(f"/jobs/{running}").json()["status"] == "running")
    assert client.get(f"/jobs/{queued}").json()["status"] == "queued"
    assert client.get(f"/jobs/{running}/files/x").json()["detail"].startswith(f"Job {running} is running. ")
    refused = client.post("/jobs/wait", json={})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1

    assert client.delete(f"/jobs/{queued}").status_code == 202
    assert wait_for_end(client, queued)["status"] == "cancelled"
    started_at = time.monotonic()
    assert client.delete(f"/jobs/{running}").status_code == 202
    assert wait_for_end(client, running)["status"] == "cancelled"
    assert time.monotonic() - started_at < 5
    assert client.get("/_conn_stats").json()["in_flight"] == 0


def test_a_job_without_a_folder_returns_its_slot(chute: Chute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(chute, Settings(keys_file=tmp_path / "keys.json"))
    with TestClient(app, raise_server_exceptions=False) as client, monkeypatch.context() as broken:
        wait_for(lambda: client.get("/ready").status_code == 200)
        broken.setattr(tempfile, "tempdir", str(tmp_path / "lost"))
        assert client.post("/jobs/wait", json={}).status_code == 500
        assert client.get("/_conn_stats").json()["in_flight"] == 0
        assert client.get("/jobs").json() == {"jobs": []}


def test_a_job_that_raises_fatal_fails_the_chute(client: TestClient) -> None:
    record = wait_for_end(client, submit(client, "fail", how="fatal"))
    assert (record["status"], record["detail"]) == ("error", "poisoned")
    wait_for(lambda: client.get("/health").status_code == 503)


def test_deleting_a_finished_job_removes_it(client: TestClient) -> None:
    job = submit(client, "train", steps=1)
    wait_for_end(client, job)
    assert client.delete(f"/jobs/{job}").status_code == 204
    assert client.get(f"/jobs/{job}").status_code == 404
    assert client.delete(f"/jobs/{job}").status_code == 404


def test_files_are_listed_once_and_removed_with_their_job(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    job = submit(client, "train", steps=3)
    wait_for_end(client, job)
    monkeypatch.setattr(jobs_module, "list_files", lambda folder: pytest.fail("looked again"))
    assert client.get(f"/jobs/{job}").json()["files"] == ["sub/weights.txt"]
    [written] = tmp_path.glob("chutes-jobs-*/*/output/sub/weights.txt")
    assert client.get(f"/jobs/{job}/files/sub/weights.txt").status_code == 200
    assert client.delete(f"/jobs/{job}").status_code == 204
    wait_for(lambda: not written.parent.parent.parent.exists())


def test_the_list_has_neither_results_nor_files(client: TestClient) -> None:
    job = submit(client, "train", steps=3)
    record = wait_for_end(client, job)
    summary = {key: value for key, value in record.items() if key not in {"result", "files", "more_files"}}
    assert client.get("/jobs").json() == {"jobs": [summary]}
    assert summary.keys() == {"id", "name", "status", "created", "started", "finished", "detail"}


def test_a_result_that_is_too_large_is_an_error_and_keeps_the_files(client: TestClient) -> None:
    record = wait_for_end(client, submit(client, "write", size=1001))
    assert (record["status"], record["result"], record["files"]) == ("error", None, ["file"])
    assert "larger than 1000 bytes" in record["detail"]
    assert "CHUTES_MAX_JOB_RESULT_BYTES" in record["detail"]
    record = wait_for_end(client, submit(client, "write", size=998))
    assert (record["status"], record["result"]) == ("complete", "x" * 998)


def test_a_result_that_contains_itself_is_an_error(client: TestClient) -> None:
    record = wait_for_end(client, submit(client, "contain_itself"))
    assert (record["status"], record["result"], "contains itself" in record["detail"]) == ("error", None, True)


def test_the_detail_of_a_failed_job_has_at_most_a_thousand_characters(client: TestClient) -> None:
    record = wait_for_end(client, submit(client, "reject", what="ä" * 5000))
    assert record["detail"] == "ä" * 1000
    record = wait_for_end(client, submit(client, "reject", half_pair=True))
    assert record["detail"] == "half ?"


def test_a_failed_job_keeps_only_its_record_in_memory(
    client: TestClient, chute: Chute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception refers to the variables of every function that it passed, such as tensors on the GPU."""
    monkeypatch.setattr(jobs_module.log, "disabled", True)  # pytest keeps log records, and with them the exception
    wait_for_end(client, submit(client, "hold"))

    def is_gone() -> bool:
        gc.collect()
        return chute.held() is None  # type: ignore[attr-defined, no-any-return]

    wait_for(is_gone)


def test_a_cancellation_waits_until_the_result_is_written(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def wait_then_list(folder: Path) -> Any:
        writing.set()
        assert go_on.wait(30)
        return list_files(folder)

    monkeypatch.setattr(jobs_module, "list_files", wait_then_list)
    job = submit(client, "train", steps=1)
    assert writing.wait(30)
    assert client.delete(f"/jobs/{job}").status_code == 202
    assert client.get(f"/jobs/{job}").json()["status"] == "cancelling"
    assert client.get("/_conn_stats").json()["in_flight"] == 1
    go_on.set()
    assert wait_for_end(client, job)["status"] == "cancelled"
    assert client.get("/_conn_stats").json()["in_flight"] == 0
    assert client.delete(f"/jobs/{job}").status_code == 204


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_an_outcome_that_cannot_be_written_is_an_error(client: TestClient, tmp_path: Path, kind: str) -> None:
    """A job may create that file, for example when it unpacks an archive that contains `../outcome`."""
    (tmp_path / "secret").write_text('"result":"secret"}')
    record = wait_for_end(client, submit(client, "block", kind=kind, target=str(tmp_path / "secret")))
    assert (record["status"], record["detail"]) == ("error", "The job failed. The log has the reason.")
    assert (record["result"], record["files"], record["more_files"]) == (None, [], False)
    assert (tmp_path / "secret").read_text() == '"result":"secret"}'


def test_a_file_is_sent_whole_or_in_part_and_sandboxed(client: TestClient) -> None:
    job = submit(client, "write", size=1)
    wait_for_end(client, job)
    answer = client.get(f"/jobs/{job}/files/page.html")
    assert answer.status_code == 404
    answer = client.get(f"/jobs/{job}/files/file")
    assert (answer.text, answer.headers["content-length"]) == ("0123456789", "10")
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    answer = client.get(f"/jobs/{job}/files/file", headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.text) == (206, "234")
    assert client.get(f"/jobs/{job}/files/file", headers={"Range": "bytes=20-"}).status_code == 416


def test_links_to_the_outside_are_neither_listed_nor_served(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    job = submit(client, "link", target=str(tmp_path))
    assert wait_for_end(client, job)["files"] == ["inside", "real"]
    assert client.get(f"/jobs/{job}/files/inside").text == "fine"
    for name in ("file", "folder/secret", "up/outcome", "output", "up", "pipe"):
        answer = client.get(f"/jobs/{job}/files/{name}")
        assert (answer.status_code, answer.json()) == (404, {"detail": f"Job {job} has no file named {name}."})


@pytest.mark.parametrize("job", ["nothing", "..", "%2e%2e%2f", "%00", "a%0ab", "x" * 5000, "%ff", "*"])
def test_unknown_ids_are_404(client: TestClient, job: str) -> None:
    for path in (f"/jobs/{job}", f"/jobs/{job}/files/x"):
        answer = client.get(path)
        assert (answer.status_code, len(answer.content) < 1000) == (404, True)


@pytest.mark.parametrize(
    "name",
    ["%2e%2e/outcome", "..%2foutcome", "%2fetc%2fpasswd", "file%00", "file%0a", "%ff", "x" * 5000, "x%2f" * 3000],
)
def test_unknown_file_names_are_404(client: TestClient, name: str) -> None:
    job = submit(client, "write", size=1)
    wait_for_end(client, job)
    answer = client.get(f"/jobs/{job}/files/{name}")
    assert (answer.status_code, len(answer.content) < 1000) == (404, True)


def test_a_limited_number_of_jobs_is_kept_newest_first(client: TestClient) -> None:
    ids = []
    for steps in range(4):
        ids.append(submit(client, "train", steps=steps))
        wait_for_end(client, ids[-1])
    ids.append(submit(client, "train", steps=4))
    wait_for_end(client, ids[-1])
    assert [job["id"] for job in client.get("/jobs").json()["jobs"]] == [ids[4], ids[3], ids[2]]


def test_jobs_are_counted(client: TestClient) -> None:
    wait_for_end(client, submit(client, "train", steps=1))
    assert "invocation_total{" in client.get("/metrics").text
    assert 'function="train",status="complete"' in client.get("/metrics").text


def test_a_chute_without_jobs_has_no_routes_for_jobs(tmp_path: Path) -> None:
    chute = Chute(username="test", name="none", image="none")
    with TestClient(create_app(chute, Settings(keys_file=tmp_path / "keys.json"))) as client:
        assert client.get("/jobs").status_code == 404
