import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from benchmarks.harness.waiting import LIMIT
from chutes.chute import Chute, Job, Port
from chutes.exception import ChutesWarning


class Training(BaseModel):
    steps: int = 3


def run(chute: Chute, job: Job, **data: Any) -> Any:
    async def main() -> Any:
        chute.executor.start()
        try:
            return await job.run(**data)
        finally:
            await chute.shutdown()

    return asyncio.run(main())


def test_a_job_runs_on_the_authors_loop_and_stays_callable(chute: Chute) -> None:
    @chute.job()
    async def train(self: Any, steps: int, name: str = "n") -> list[Any]:
        """Train."""
        return [threading.current_thread().name, steps, name]

    assert isinstance(train, Job)
    assert (chute.jobs, train.name, train.timeout, train.upload, train.ssh) == ([train], "train", None, True, False)
    assert run(chute, train, steps=2) == {"status": "complete", "result": ["chute-loop", 2, "n"]}
    assert asyncio.run(train(chute, 4, name="m")) == ["MainThread", 4, "m"]


@pytest.mark.parametrize(
    ("error", "detail"), [(ValueError("bad"), "ValueError: bad"), (HTTPException(400, "wrong"), "wrong")]
)
def test_a_failed_job_returns_its_error(chute: Chute, error: Exception, detail: str) -> None:
    @chute.job()
    def train(self: Any) -> None:
        raise error

    assert run(chute, train) == {"status": "error", "detail": detail}


def test_arguments_are_validated(chute: Chute) -> None:
    @chute.job()
    async def by_name(self: Any, steps: int, output_dir: str = "") -> None: ...

    @chute.job()
    async def model(self: Any, training: Training) -> None: ...

    @chute.job()
    async def by_default(self: Any, training: Training = Training(steps=9)) -> None: ...  # noqa: B008

    @chute.job()
    async def anything(self: Any, **job_data: Any) -> None: ...

    assert by_name.arguments({"steps": "2"}) == {"steps": 2}
    assert model.arguments({"steps": 5}) == {"training": Training(steps=5)}
    assert model.arguments({}) == {"training": Training()}
    assert by_default.arguments({}) == {}
    assert by_default.arguments({"steps": 5}) == {"training": Training(steps=5)}
    assert anything.arguments({"a": 1}) == {"a": 1}
    for job, data, field in [
        (by_name, {"steps": "two"}, "steps"),
        (by_name, {}, "steps"),
        (by_name, {"steps": 1, "other": 1}, "other"),
        (by_name, {"steps": 1, "output_dir": "/etc"}, "output_dir"),
        (model, {"steps": "two"}, "steps"),
    ]:
        with pytest.raises(RequestValidationError) as refused:
            job.arguments(data)
        assert refused.value.errors()[0]["loc"] == ("body", field)
    assert run(chute, by_name)["detail"] == "steps: Field required"


def test_at_most_a_hundred_unknown_names_are_reported_beside_other_errors(chute: Chute) -> None:
    @chute.job()
    async def by_name(self: Any, steps: int, rate: float, output_dir: str = "") -> None: ...

    with pytest.raises(RequestValidationError) as refused:
        by_name.arguments({"steps": "two", **{f"k{n}": n for n in range(1000)}})
    errors = refused.value.errors()
    assert [(error["loc"], error["type"]) for error in errors[:3]] == [
        (("body", "steps"), "int_parsing"),
        (("body", "rate"), "missing"),
        (("body", "k0"), "extra_forbidden"),
    ]
    assert len(errors) == 100


HOSTILE = """
import sys, time
from pydantic import BaseModel, ConfigDict
from chutes.chute import Chute
from fastapi.exceptions import RequestValidationError

class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    steps: int = 1

chute = Chute(username="test", name="hostile", image="none")

@chute.job()
def names(self, steps: int): ...

@chute.job()
def model(self, training: Strict): ...

@chute.job()
def items(self, items: list[int]): ...

def peak():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) // 1024

unknown = {f"k{n}": 1 for n in range(1_700_000)}
data = {"names": unknown, "model": unknown, "items": {"items": ["x"] * 1_700_000}}[sys.argv[1]]
before, began = peak(), time.monotonic()
try:
    getattr(sys.modules["__main__"], sys.argv[1]).arguments(data)
except RequestValidationError as error:
    print(len(error.errors()), time.monotonic() - began, peak() - before)
"""


@pytest.mark.parametrize(
    ("job", "reported", "limit_mib"),
    [
        ("names", 100, 64),
        ("model", 1, 1024),
        ("items", 1, 1024),
    ],  # pydantic's own errors, of which 1.7 million are kept
)
def test_millions_of_invalid_values_take_little_time_and_memory(job: str, reported: int, limit_mib: int) -> None:
    output = subprocess.run([sys.executable, "-c", HOSTILE, job], capture_output=True, text=True, check=True).stdout
    errors, seconds, mib = (float(figure) for figure in output.split())
    print(f"{job}: {seconds:.2f} s, {mib:.0f} MiB")
    assert errors == reported
    assert seconds < 30
    assert mib < limit_mib


def test_output_files_are_kept_and_empty_folders_removed(chute: Chute) -> None:
    @chute.job()
    def write(self: Any, output_dir: str) -> str:
        (Path(output_dir) / "x").write_text("y")
        return output_dir

    @chute.job()
    def idle(self: Any, output_dir: str) -> str:
        return output_dir

    folder = Path(run(chute, write)["result"])
    assert (folder / "x").read_text() == "y"
    (folder / "x").unlink()
    folder.rmdir()
    assert not Path(run(chute, idle)["result"]).exists()


def test_the_time_limit_cancels_a_coroutine(chute: Chute) -> None:
    ended: list[str] = []

    @chute.job(timeout=30)
    async def slow(self: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    slow.timeout = 0.05  # no test waits for 30 seconds
    with pytest.raises(TimeoutError, match="longer than"):
        run(chute, slow)
    assert ended == ["ended"]


def test_the_time_limit_asks_a_plain_function_to_stop(chute: Chute) -> None:
    @chute.job(timeout=30)
    def slow(self: Any) -> None:
        assert slow.cancel_event.wait(LIMIT)

    slow.timeout = 0.05  # no test waits for 30 seconds
    with pytest.raises(TimeoutError):
        run(chute, slow)
    assert not slow.cancel_event.is_set()  # each run has its own


def test_cancelling_the_caller_cancels_the_run(chute: Chute) -> None:
    began, ended = threading.Event(), threading.Event()

    @chute.job()
    async def slow(self: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert slow.cancel_event.is_set()
            ended.set()

    async def main() -> None:
        task = asyncio.create_task(slow.run())
        await asyncio.to_thread(began.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
        await chute.shutdown()

    asyncio.run(main())


@pytest.mark.parametrize("timeout", [29, 86_401, 60.5, "60"])
def test_invalid_timeouts(chute: Chute, timeout: Any) -> None:
    with pytest.raises(AssertionError):
        chute.job(timeout=timeout)


@pytest.mark.parametrize("port", [0, 2201, 8001, 65_536])
def test_invalid_ports(port: int) -> None:
    with pytest.raises(ValidationError, match=f"Port must be 2202, or from 8002 to 65535; got {port}"):
        Port(name="http", port=port, proto="tcp")


def test_ports(chute: Chute) -> None:
    web = Port(name="http", port=8002, proto="http")
    with pytest.warns(ChutesWarning, match="has no effect"):
        job = chute.job(ports=[web], ssh=True)
    assert job.ports == [web, Port(name="ssh", port=2202, proto="tcp")]
    with pytest.raises(ValueError, match="same name"):
        chute.job(ports=[web, Port(name="http", port=8003)])
    with pytest.raises(ValueError, match="same port"):
        chute.job(ports=[web, Port(name="other", port=8002)])


def test_unknown_arguments_warn(chute: Chute) -> None:
    with pytest.warns(ChutesWarning, match="'retry'"):
        chute.job(retry=3)
