"""Results and files of jobs take little memory, delay no probe, and are removed with their job."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.harness.server import Server, serving, wait_for

JOBS = """
import os

@chute.job()
def echo(self, size: int, output_dir: str) -> list[str]:
    return ["x" * 1000] * (size // 1000)

@chute.job()
def numbers(self, count: int) -> list[int]:
    return [1] * count

@chute.job()
def write(self, count: int, output_dir: str) -> int:
    for n in range(count):
        os.close(os.open(f"{output_dir}/{n:06}", os.O_CREAT | os.O_WRONLY))
    return count

@chute.job()
async def wait(self, output_dir: str) -> None:
    open(f"{output_dir}/file", "w").close()
    await asyncio.sleep(600)
"""
MIB = 1 << 20
FINISHED = {"complete", "error", "cancelled", "timeout"}


def submit(server: Server, name: str, **data: Any) -> str:
    answer = server.post(f"/jobs/{name}", json=data)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def wait_for_end(server: Server, job: str) -> dict[str, Any]:
    wait_for(lambda: server.get(f"/jobs/{job}").json()["status"] in FINISHED)
    return dict(server.get(f"/jobs/{job}").json())


def memory(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextmanager
def probing(server: Server) -> Iterator[list[float]]:
    """Record the response times of `/health` in the block."""
    seconds: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not stop.wait(0.02):
                started_at = time.monotonic()
                assert client.get(f"{server.url}/health").status_code == 200
                seconds.append(time.monotonic() - started_at)

    with ThreadPoolExecutor(1) as pool:
        prober = pool.submit(ask)
        try:
            yield seconds
        finally:
            stop.set()
            prober.result()


def report(what: str, server: Server, before: int, seconds: list[float]) -> None:
    grown = (memory(server) - before) / MIB
    print(f"{what}: /health at most {max(seconds) * 1000:.0f} ms, memory + {grown:.0f} MiB")
    assert max(seconds) < 5  # without the limit 14.5 s
    assert grown < 256


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_many_large_results_take_no_memory_and_are_not_listed(tmp_path: Path, temporary: Path) -> None:
    with serving(tmp_path, JOBS) as server:
        before = memory(server)
        with probing(server) as seconds:
            jobs = [submit(server, "echo", size=8 * MIB)]
            for _ in range(49):
                wait_for(lambda: server.get("/_conn_stats").json()["in_flight"] == 0)
                jobs.append(submit(server, "echo", size=8 * MIB))
            assert wait_for_end(server, jobs[-1])["status"] == "complete"
            started_at = time.monotonic()
            listed = server.get("/jobs")
            assert time.monotonic() - started_at < 5
            assert len(listed.json()["jobs"]) == 50
            assert len(listed.content) < 50_000
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda job: httpx.get(f"{server.url}/jobs/{job}", timeout=60), jobs[:8]))
            assert {(answer.status_code, len(answer.json()["result"])) for answer in answers} == {
                (200, 8 * MIB // 1000)
            }
        report("50 results of 8 MiB", server, before, seconds)


def test_a_result_of_500_mb_is_an_error_at_once(tmp_path: Path, temporary: Path) -> None:
    with serving(tmp_path, JOBS) as server:
        before = memory(server)
        with probing(server) as seconds:
            record = wait_for_end(server, submit(server, "echo", size=500_000_000))
            assert (record["status"], record["result"]) == ("error", None)
            assert "CHUTES_MAX_JOB_RESULT_BYTES" in record["detail"]
            record = wait_for_end(server, submit(server, "numbers", count=20_000_000))
            assert (record["status"], record["result"]) == ("error", None)
        report("a result of 500 MB", server, before + 160 * MIB, seconds)  # the list of 20 million pointers


def test_a_hundred_thousand_files_are_listed_in_part_and_removed(tmp_path: Path, temporary: Path) -> None:
    with serving(tmp_path, JOBS) as server:
        before = memory(server)
        with probing(server) as seconds:
            job = submit(server, "write", count=100_000)
            record = wait_for_end(server, job)
            assert (record["status"], len(record["files"]), record["more_files"]) == ("complete", 10_000, True)
            assert len(server.get("/jobs").content) < 1000
            assert server.get(f"/jobs/{job}/files/099999").status_code == 200
            assert server.client.delete(f"{server.url}/jobs/{job}").status_code == 204
            wait_for(lambda: not list(temporary.glob("chutes-jobs-*/*")))
        report("100 000 files", server, before, seconds)


def test_many_jobs_at_once_are_accepted_or_rejected(tmp_path: Path, temporary: Path) -> None:
    with serving(tmp_path, JOBS, queue_size=20) as server, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: server.post("/jobs/wait"), range(300)))
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(202), statuses.count(429)) == (21, 279)
        assert len(list(temporary.glob("chutes-jobs-*/*"))) == 21
        jobs = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        assert {
            answer.status_code
            for answer in pool.map(lambda job: server.client.delete(f"{server.url}/jobs/{job}"), jobs)
        } == {202}
        assert {wait_for_end(server, job)["status"] for job in jobs} == {"cancelled"}
        assert server.get("/_conn_stats").json()["in_flight"] == 0
        assert {
            answer.status_code
            for answer in pool.map(lambda job: server.client.delete(f"{server.url}/jobs/{job}"), jobs)
        } == {204}
        wait_for(lambda: not list(temporary.glob("chutes-jobs-*/*")))


def test_the_next_start_removes_files_of_killed_servers_only(tmp_path: Path, temporary: Path) -> None:
    for name in ("killed", "living", "next"):
        (tmp_path / name).mkdir()
    with serving(tmp_path / "killed", JOBS) as killed, serving(tmp_path / "living", JOBS) as living:
        submit(living, "wait")
        wait_for(lambda: list(temporary.glob("chutes-jobs-*/*/output/file")))
        [kept] = temporary.iterdir()
        submit(killed, "wait")
        wait_for(lambda: len(list(temporary.glob("chutes-jobs-*/*/output/file"))) == 2)
        killed.signal(signal.SIGKILL)
        killed.wait()
        assert len(list(temporary.iterdir())) == 2
        with serving(tmp_path / "next", JOBS):
            wait_for(lambda: list(temporary.iterdir()) == [kept])
        assert list(kept.glob("*/output/file"))


def test_a_server_removes_its_files_at_exit(tmp_path: Path, temporary: Path) -> None:
    with serving(tmp_path, JOBS, drain_grace=30) as server:
        wait_for_end(server, submit(server, "write", count=100))
        assert list(temporary.glob("chutes-jobs-*/*/output/000099"))
        server.signal()
        assert server.wait() == 0
    assert list(temporary.iterdir()) == []
