"""Out of memory, a hung GPU and a lost GPU: what the engine survives, and what it reports as a failure."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from imagegen import engine as engine_module
from imagegen import sampling, watchdog
from imagegen.engine import Engine
from imagegen.errors import EngineFailed, OutOfMemory
from imagegen.models import Model
from imagegen.picture import Picture
from imagegen.request import Request
from tests.imagegen.test_engine import Gate, ask, count, fault, until


@pytest.mark.parametrize("at", [1, 3, 10])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")],
    ids=["torch", "cublas"],
)
def test_out_of_memory_is_retried_at_half_the_size(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, at: int, error: Any
) -> None:
    whole = asyncio.run(engine.generate(ask(steps=10)))
    with monkeypatch.context() as patch:
        fault(patch, engine, error, at=at)
        picture = asyncio.run(engine.generate(ask(steps=10)))
    assert picture.image.size == whole.image.size
    assert (picture.fallback, picture.metadata["num_inference_steps"]) == ("out-of-memory", 5)
    assert (whole.generated_size, picture.generated_size) == ((128, 128), (64, 64))
    assert asyncio.run(engine.generate(ask(steps=10))).encode() == whole.encode()


def test_out_of_memory_twice_is_an_error_and_the_next_request_succeeds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fault(patch, engine, torch.OutOfMemoryError("CUDA out of memory."), at=1, times=2)
        with pytest.raises(OutOfMemory, match="smaller"):
            asyncio.run(engine.generate(ask()))
    assert asyncio.run(engine.generate(ask())).fallback is None


class FakeFastPath:
    """The hooks of a fast path; counts how often its caches were freed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, engine: Engine, *, capturing: bool = False) -> None:
        self.freed, self.capturing = 0, capturing
        monkeypatch.setattr(engine.model, "fast_path", self)

    def free_caches(self) -> None:
        self.freed += 1

    def bind_scheduler(self, scheduler: object) -> None:
        pass

    def prepare_decoder(self, width: int, height: int) -> Iterator[None]:
        return iter(())


def attempts(engine: Engine, number: int) -> list[type]:
    """Send `number` requests at once and return the types of their results."""

    async def run() -> list[type]:
        requests = [engine.generate(ask(steps=1)) for _ in range(number)]
        return [type(each) for each in await asyncio.gather(*requests, return_exceptions=True)]

    return asyncio.run(run())


def test_three_times_out_of_memory_frees_the_caches_before_the_next_request(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []
    engine = start(on_failure=reasons.append)
    path = FakeFastPath(monkeypatch, engine)
    fault(monkeypatch, engine, torch.OutOfMemoryError("CUDA out of memory."), at=1, times=6)
    steps = count("steps_total")
    assert attempts(engine, 4) == [OutOfMemory] * 3 + [Picture]
    assert path.freed == 1
    assert count("steps_total") == steps + 2 + 1  # two of the warm-up image, one of the fourth request
    assert not reasons
    assert attempts(engine, 2) == [Picture] * 2


def test_memory_that_stays_full_is_a_failure(start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    engine = start(on_failure=reasons.append, oom_fallback=False)
    path = FakeFastPath(monkeypatch, engine)
    fault(monkeypatch, engine, torch.OutOfMemoryError("CUDA out of memory."), at=1, times=1000)
    assert attempts(engine, 5) == [OutOfMemory] * 3 + [EngineFailed] * 2
    assert path.freed == 1
    assert len(reasons) == 1
    assert "Out of memory 3 times in a row, and the warm-up image failed" in reasons[0]


def test_only_failures_in_a_row_free_the_caches(start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start()
    path = FakeFastPath(monkeypatch, engine)
    for _ in range(2):
        with monkeypatch.context() as patch:  # two fail, and the fallback saves the third
            fault(patch, engine, torch.OutOfMemoryError("CUDA out of memory."), at=1, times=5)
            assert attempts(engine, 3) == [OutOfMemory] * 2 + [Picture]
    assert path.freed == 0


def test_a_gpu_lost_while_freeing_the_caches_is_a_failure(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []
    engine = start(on_failure=reasons.append)

    def lost() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(FakeFastPath(monkeypatch, engine), "free_caches", lost)
    fault(monkeypatch, engine, torch.OutOfMemoryError("CUDA out of memory."), at=1, times=6)
    assert attempts(engine, 4) == [OutOfMemory] * 3 + [EngineFailed]
    assert len(reasons) == 1


def test_the_fallback_can_be_turned_off(start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start(oom_fallback=False)
    fault(monkeypatch, engine, torch.OutOfMemoryError("CUDA out of memory."), at=2)
    with pytest.raises(OutOfMemory):
        asyncio.run(engine.generate(ask()))
    asyncio.run(engine.generate(ask()))


def test_the_retry_holds_no_tensors_of_the_first_attempt(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry would run out of memory again if the first attempt's activations were still alive."""
    alive: list[bool] = []

    class Tensor:
        pass

    held: list[object] = []

    def sample(*args: object, **kwargs: object) -> Image.Image:
        import weakref

        if held:
            alive.append(held[0]() is not None)
            return Image.new("RGB", (64, 64))
        activation = Tensor()
        held.append(weakref.ref(activation))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(engine_module, "sample", sample)
    asyncio.run(engine.generate(ask()))
    assert alive == [False]


def test_a_lost_gpu_is_reported_once_and_every_later_request_fails(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []
    engine = start(on_failure=reasons.append)
    fault(monkeypatch, engine, RuntimeError("CUDA error: device-side assert triggered"), at=2)

    async def run() -> None:
        answers = await asyncio.gather(*(engine.generate(ask(seed)) for seed in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [EngineFailed] * 3
        with pytest.raises(EngineFailed):
            await engine.generate(ask())

    asyncio.run(run())
    assert reasons == ["RuntimeError on the GPU"]


def test_a_cancelled_request_that_does_not_end_is_a_hang(start: Callable[..., Engine]) -> None:
    reasons: list[str] = []
    engine = start(on_failure=reasons.append, cancel_timeout=0.5)
    gate = Gate()

    async def run() -> None:
        task = asyncio.create_task(engine.generate(ask(), on_step=gate))
        await until(gate.reached.is_set)
        task.cancel()
        await until(lambda: bool(reasons))
        gate.go.set()
        await until(lambda: count("busy") == 0)  # the model is shared with the next test

    asyncio.run(run())
    assert len(reasons) == 1
    assert "has not responded" in reasons[0]


def known(engine: Engine, **fields: object) -> None:
    """Generate an image, so that the watchdog knows how long its steps take."""
    asyncio.run(engine.generate(ask(**fields)))


class Block:
    """A GPU that blocks until the test continues it. Meanwhile `hang_after` alone is the watchdog's limit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, engine: Engine, component: str, *, at: int) -> None:
        self.engine, self.entered, self.go = engine, threading.Event(), threading.Event()
        module = getattr(engine.model.pipeline, component)
        method = "decode" if component == "vae" else "forward"
        run, calls = getattr(module, method), []

        def blocking(*args: object, **kwargs: object) -> object:
            calls.append(1)
            if len(calls) == at:
                monkeypatch.setattr(watchdog, "_HANG_FACTOR", 0)  # a usual step takes long on a busy machine
                self.entered.set()
                self.go.wait(150)
            return run(*args, **kwargs)

        monkeypatch.setattr(module, method, blocking)

    async def outcome(self, request: Request, until_true: Callable[[], bool]) -> object:
        """Send a request, and let the GPU continue when the condition holds."""
        task = asyncio.create_task(self.engine.generate(request))
        await until(self.entered.is_set)
        await until(until_true)
        self.go.set()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        return outcome


@pytest.mark.parametrize(
    ("component", "at"), [("text_encoder_2", 1), ("transformer", 1), ("transformer", 3), ("vae", 1)]
)
def test_a_gpu_that_hangs_in_any_phase_is_a_failure(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, component: str, at: int
) -> None:
    reasons: list[str] = []
    engine = start(on_failure=reasons.append, hang_after=1)
    known(engine)
    block = Block(monkeypatch, engine, component, at=at)
    outcome = asyncio.run(block.outcome(ask(), lambda: bool(reasons)))
    assert len(reasons) == 1
    assert "The GPU hangs" in reasons[0]
    assert engine.failure == reasons[0]
    if component != "vae":  # after the last step nothing is left to stop
        assert isinstance(outcome, EngineFailed)
    with pytest.raises(EngineFailed):
        asyncio.run(engine.generate(ask()))


@pytest.mark.parametrize("case", ["first of its shape", "offload", "stream", "capturing"])
def test_a_step_of_unknown_duration_may_take_long(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    reasons: list[str] = []
    engine = start(on_failure=reasons.append, hang_after=1)
    if case in {"offload", "stream"}:
        # Only the watchdog sees the plan here, because its hooks and events need a GPU.
        monkeypatch.setattr(engine_module, "sample", without_plan(engine.model))
        monkeypatch.setattr(engine.model, "plan", case)
    known(engine)
    if case == "capturing":
        FakeFastPath(monkeypatch, engine, capturing=True)
    first = case == "first of its shape"
    block = Block(monkeypatch, engine, "transformer", at=1 if first else 3)
    request = ask(width=256, height=192) if first else ask()
    began = time.monotonic()
    outcome = asyncio.run(block.outcome(request, lambda: time.monotonic() > began + 4))
    assert isinstance(outcome, Picture)
    assert not reasons


def without_plan(model: Model) -> Callable[..., Image.Image]:
    def sample(given: Model, *args: object, **options: object) -> Image.Image:
        return sampling.sample(dataclasses.replace(model, plan=None), *args, **options)

    return sample
