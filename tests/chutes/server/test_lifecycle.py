import asyncio
import threading
from typing import Any

import pytest

from benchmarks.harness.waiting import LIMIT
from chutes.chute import Chute
from chutes.exception import ChutesError, Draining, NotReady, Unavailable
from chutes.server.admission import Admission
from chutes.server.lifecycle import ExitCode, Lifecycle, State, describe_error
from tests.chutes.server.asgi import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def chute() -> Chute:
    return Chute(username="test", name="life", image="none")


def lifecycle(chute: Chute) -> Lifecycle:
    return Lifecycle(chute, Admission(1, 1))


async def test_the_state_goes_from_loading_to_ready_to_draining(chute: Chute, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[str] = []
    go_on = threading.Event()

    @chute.on_startup()
    async def load(self: Any) -> None:
        self.progress.update("weights", 1, 2)
        self.info |= {"model": "tiny", "name": "kept apart from the record's own", "plan": ["a list"]}
        await until(go_on.is_set)

    @chute.on_shutdown()
    async def unload(self: Any) -> None:
        calls.append("unloaded")

    caplog.set_level("INFO")
    life = lifecycle(chute)
    life.start()
    await until(lambda: chute.progress.snapshot()["stage"])
    assert life.state is State.LOADING
    with pytest.raises(NotReady, match="weights"):
        life.check()

    go_on.set()
    await life.ready.wait()
    assert life.state is State.READY
    life.check()
    (ready,) = [record for record in caplog.records if record.message == "Ready"]
    assert vars(ready)["info"] == {"model": "tiny", "name": "kept apart from the record's own"}

    life.drain()
    with pytest.raises(Draining) as refused:
        life.check()
    assert refused.value.headers["Connection"] == "close"
    await life.close()
    assert calls == ["unloaded"]
    assert not life.abandoned


async def test_the_progress_of_loading_is_logged(
    chute: Chute, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chutes.server.lifecycle._PROGRESS_INTERVAL", 0.01)
    go_on = threading.Event()

    def lines() -> list[str]:
        return [record.message for record in caplog.records if record.message.startswith("Loading: ")]

    @chute.on_startup()
    def load(self: Any) -> None:
        self.progress.update("reading the transformer", 6, 8, "GB")
        go_on.wait(LIMIT)

    caplog.set_level("INFO")
    life = lifecycle(chute)
    life.start()
    await until(lines)
    await asyncio.sleep(0.05)  # without a change nothing is logged
    assert lines() == ["Loading: reading the transformer, 75%"]
    go_on.set()
    await life.ready.wait()
    chute.progress.update("ready")
    await asyncio.sleep(0.05)
    assert len(lines()) == 1
    await life.close()


async def test_a_failed_load_resolves_the_exit_code(chute: Chute, caplog: pytest.LogCaptureFixture) -> None:
    @chute.on_startup()
    async def load(self: Any) -> None:
        raise ValueError("no weights\nhere")

    life = lifecycle(chute)
    life.start()
    assert life.exit_code is not None
    assert await life.exit_code is ExitCode.LOAD_FAILED
    assert life.state is State.FAILED
    (error,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert error.startswith("Startup failed: ValueError: no weights here (test_lifecycle.py:")
    with pytest.raises(Unavailable):
        life.check()
    await life.close()
    assert life.state is State.FAILED


async def test_a_fatal_error_resolves_the_exit_code(chute: Chute) -> None:
    life = lifecycle(chute)
    life.start()
    await life.ready.wait()
    await asyncio.to_thread(chute.fail, "the driver says 79")
    assert life.exit_code is not None
    assert await asyncio.wait_for(life.exit_code, LIMIT) is ExitCode.FATAL
    assert life.state is State.FAILED
    await life.close()


async def test_the_authors_own_lifespan_runs_too() -> None:
    from contextlib import asynccontextmanager

    calls: list[str] = []

    @asynccontextmanager
    async def lifespan(app: object) -> Any:
        calls.append("entered")
        yield
        calls.append("left")

    chute = Chute(username="test", name="lifespan", image="none", lifespan=lifespan)
    life = lifecycle(chute)
    life.start()
    await life.ready.wait()
    assert calls == ["entered"]
    await life.close()
    assert calls == ["entered", "left"]


async def test_a_load_that_blocks_is_abandoned(chute: Chute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chutes.server.lifecycle._CANCEL_TIMEOUT", 0.05)

    started, go_on = threading.Event(), threading.Event()

    @chute.on_startup()
    async def load(self: Any) -> None:
        started.set()
        go_on.wait(LIMIT)  # blocks like loading a model

    life = lifecycle(chute)
    life.start()
    await until(started.is_set)
    await life.close()
    assert life.abandoned
    go_on.set()
    assert life._task is not None
    await until(life._task.done)


def test_an_exception_is_described_in_one_line() -> None:
    assert describe_error(ChutesError("for\nclients")) == "for clients"
    with pytest.raises(ValueError) as raised:
        int("x")
    assert describe_error(raised.value).startswith(
        "ValueError: invalid literal for int() with base 10: 'x' (test_lifecycle.py:"
    )
    assert describe_error(KeyError()) == "KeyError"
