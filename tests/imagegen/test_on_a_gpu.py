"""What only a GPU shows: all memory plans give the same images, and real failures are recognized."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from imagegen import flux, models
from imagegen.engine import Engine
from imagegen.errors import EngineFailed, OutOfMemory
from imagegen.request import Request
from imagegen.settings import Settings
from tests.imagegen.test_sampling import img2img

pytestmark = pytest.mark.gpu

REQUEST = Request("a cat", width=1024, height=1024, seed=1, steps=4)


async def cancel_midway(engine: Engine) -> None:
    """Cancel a request after its first step."""
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(engine.generate(REQUEST, on_step=lambda *_: loop.call_soon_threadsafe(reached.set)))
    await reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_every_plan_gives_the_same_image_and_survives_a_cancel(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flux, "supported", lambda: False)
    files = {}
    for plan in ("resident", "offload", "stream"):
        engine = Engine(models.load(str(tiny_model), settings=Settings(memory=plan)))
        engine.start()

        async def generate(engine: Engine = engine) -> tuple[bytes, ...]:
            pictures = [await engine.generate(REQUEST), await engine.generate(img2img())]
            return tuple(each.encode() for each in pictures)

        files[plan] = asyncio.run(generate())
        asyncio.run(cancel_midway(engine))
        assert asyncio.run(generate()) == files[plan]
        engine.stop()
    assert files["offload"] == files["stream"]


def test_the_engine_survives_out_of_memory(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flux, "supported", lambda: False)
    engine = Engine(models.load(str(tiny_model), settings=Settings(memory="resident")))
    engine.start()
    before = asyncio.run(engine.generate(REQUEST)).encode()
    transformer = engine.model.pipeline.transformer
    forward, calls = transformer.forward, []

    def out_of_memory(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            torch.empty(1 << 45, dtype=torch.uint8, device="cuda")
        return forward(*args, **kwargs)

    monkeypatch.setattr(transformer, "forward", out_of_memory)
    assert asyncio.run(engine.generate(REQUEST)).fallback == "out-of-memory"
    assert asyncio.run(engine.generate(REQUEST)).encode() == before
    engine.stop()


@pytest.fixture
def fast() -> Iterator[Any]:
    """Start an engine on the fast path with the bundled model."""
    engines = []

    def fast(**options: Any) -> Engine:
        engine = Engine(models.load("bundled", settings=Settings(memory="resident")), **options)
        assert engine.model.info["transformer"] == "imagegen.flux"
        engine.start()
        engines.append(engine)
        return engine

    yield fast
    for engine in engines:
        engine.stop()


def captured_shapes(engine: Engine) -> int:
    """Return the number of shapes for which the fast path holds CUDA graphs."""
    return sum(len(cache.captured) for cache in engine.model.fast_path.graph_caches)


def test_three_times_out_of_memory_frees_the_cuda_graphs(fast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = []
    engine = fast(oom_fallback=False, on_failure=reasons.append)
    for width in range(128, 1025, 128):
        asyncio.run(engine.generate(replace(REQUEST, width=width)))
    before, captured = asyncio.run(engine.generate(REQUEST)).encode(), captured_shapes(engine)
    assert captured > 8
    reserved = torch.cuda.memory_reserved()
    pipeline = engine.model.pipeline
    forward, calls = pipeline.transformer.forward, []

    def out_of_memory(**kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) <= 3:
            torch.empty(1 << 45, dtype=torch.uint8, device="cuda")
        return forward(**kwargs)

    monkeypatch.setattr(pipeline.transformer, "forward", out_of_memory)
    for _ in range(3):
        with pytest.raises(OutOfMemory):
            asyncio.run(engine.generate(REQUEST))
    assert asyncio.run(engine.generate(REQUEST)).encode() == before
    now = torch.cuda.memory_reserved()
    print(f"captured shapes {captured} -> {captured_shapes(engine)}, reserved {reserved >> 20} -> {now >> 20} MiB")
    assert captured_shapes(engine) == 3  # one of each component
    assert not reasons


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_gpu_that_does_not_finish_is_noticed_while_the_cpu_waits(
    fast: Any, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """At the first step, at a middle one, and at the last, for which the decoder waits."""
    reasons = []
    engine = fast(hang_after=1, on_failure=reasons.append)
    for _ in range(2):
        asyncio.run(engine.generate(REQUEST))
    transformer = engine.model.pipeline.transformer
    forward, calls = transformer.forward, []

    def slow(**kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            torch.cuda._sleep(20_000_000_000)  # clock cycles: some ten seconds
        return forward(**kwargs)

    monkeypatch.setattr(transformer, "forward", slow)
    with contextlib.suppress(EngineFailed):
        asyncio.run(engine.generate(REQUEST))
    assert len(reasons) == 1
    assert "The GPU hangs" in reasons[0]


POISON = """
import torch
from imagegen.cuda_errors import is_fatal, is_out_of_memory
try:
    torch.zeros(4, device="cuda")[torch.tensor([99], device="cuda")].sum().item()
except Exception as error:
    print(is_fatal(error), is_out_of_memory(error))
import os; os._exit(0)
"""


def test_a_lost_cuda_context_is_fatal() -> None:
    done = subprocess.run([sys.executable, "-c", POISON], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
