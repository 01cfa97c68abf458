"""What only a GPU shows: the memory plans draw the same pictures, and real failures are told apart."""

import asyncio
import subprocess
import sys

import pytest
import torch

from imagegen import flux, models
from imagegen.engine import Engine
from imagegen.requests import GenerationInput
from imagegen.settings import Settings
from tests.imagegen.test_drawing import img2img

pytestmark = pytest.mark.gpu

REQUEST = GenerationInput(prompt="a cat", seed=1, num_inference_steps=4)


async def leave_midway(engine: Engine) -> None:
    """Cancel a picture after a few steps."""
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(engine.generate(REQUEST, on_step=lambda *_: loop.call_soon_threadsafe(reached.set)))
    await reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_every_plan_draws_the_same_and_survives_a_cancel(tiny_model, monkeypatch):
    monkeypatch.setattr(flux, "supported", lambda: False)
    files = {}
    for plan in ("resident", "offload", "stream"):
        engine = Engine(models.load(str(tiny_model), settings=Settings(memory=plan)))
        engine.start()

        async def draw(engine: Engine = engine) -> tuple[bytes, ...]:
            pictures = [await engine.generate(REQUEST), await engine.img2img(img2img())]
            return tuple(each.encode() for each in pictures)

        files[plan] = asyncio.run(draw())
        asyncio.run(leave_midway(engine))
        assert asyncio.run(draw()) == files[plan]
        engine.stop()
    assert files["offload"] == files["stream"]


def test_memory_that_runs_out_is_survived(tiny_model, monkeypatch):
    monkeypatch.setattr(flux, "supported", lambda: False)
    engine = Engine(models.load(str(tiny_model), settings=Settings(memory="resident")))
    engine.start()
    before = asyncio.run(engine.generate(REQUEST)).encode()
    transformer = engine.model.text2image.transformer
    forward, calls = transformer.forward, []

    def hungry(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            torch.empty(1 << 45, dtype=torch.uint8, device="cuda")
        return forward(*args, **kwargs)

    monkeypatch.setattr(transformer, "forward", hungry)
    assert asyncio.run(engine.generate(REQUEST)).fallback == "out-of-memory"
    assert asyncio.run(engine.generate(REQUEST)).encode() == before
    engine.stop()


POISON = """
import torch
from imagegen.failures import is_fatal, is_out_of_memory
try:
    torch.zeros(4, device="cuda")[torch.tensor([99], device="cuda")].sum().item()
except Exception as error:
    print(is_fatal(error), is_out_of_memory(error))
import os; os._exit(0)
"""


def test_a_poisoned_context_is_told_from_the_rest():
    done = subprocess.run([sys.executable, "-c", POISON], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
