"""Whole images through the engine: from prompt to JPEG, the parts around the steps, and a queue."""

from __future__ import annotations

import asyncio
import gc
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.flux.step import SIZES, STEPS, timed
from imagegen import models
from imagegen.engine import Engine
from imagegen.http.schemas import GenerationInput
from imagegen.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = "a majestic dragon flying over a crystal lake at sunset"


def request(seed: int, width: int = 1024, height: int = 1024, steps: int = STEPS) -> GenerationInput:
    """Return a request as a client sends it."""
    return GenerationInput(
        prompt=PROMPT, width=width, height=height, num_inference_steps=steps, guidance_scale=3.5, seed=seed
    )


def load(folder: Path, precision: str) -> tuple[models.Model, Engine, dict[str, Any]]:
    """Load a model as the server does and start its engine; return both with the times."""
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    model = models.load(str(folder), settings=Settings(precision=precision, max_sequence_length=512))  # type: ignore[arg-type]  # checked there
    figures = {"load s": time.perf_counter() - began, "weights": model.info["weights_read"]}
    engine = Engine(model)
    engine.start()
    images(engine, (256, 256), count=1, steps=2)  # compiles Triton's kernels, as a server's warm-up does
    gc.collect()
    gc.freeze()  # as a server that is ready
    figures["load and warm up s"] = time.perf_counter() - began
    return model, engine, {**figures, "attention": str(model.info["attention"])[:120]}


def parts(pipeline: Any) -> dict[str, float]:
    """Return the median ms of the text encoders and the VAE at 1024x1024."""
    latents = torch.randn(1, 16, 128, 128, device="cuda", dtype=torch.bfloat16)
    image = torch.randn(1, 3, 1024, 1024, device="cuda", dtype=torch.bfloat16)
    ids = torch.ones(1, 512, device="cuda", dtype=torch.long)
    with torch.inference_mode():
        return {
            "T5": timed(lambda: pipeline.text_encoder_2(ids, output_hidden_states=False)),
            "CLIP": timed(lambda: pipeline.text_encoder(ids[:, :77], output_hidden_states=False)),
            "VAE decode": timed(lambda: pipeline.vae.decode(latents, return_dict=False)),
            "VAE encode": timed(lambda: pipeline.vae.encode(image, return_dict=False)),
        }


async def _generate(engine: Engine, params: GenerationInput) -> float:
    began = time.perf_counter()
    picture = await engine.generate(params.to_request(engine.profile))
    await asyncio.to_thread(picture.encode)
    return time.perf_counter() - began


def images(engine: Engine, size: tuple[int, int], count: int = 2, steps: int = STEPS) -> dict[str, float]:
    """Return the seconds from request to JPEG at a size: of the first image, and the median of the next ones."""
    times = [asyncio.run(_generate(engine, request(seed, *size, steps))) for seed in range(count + 1)]
    return {"first": times[0], "median": median(times[1:])}


def queue(engine: Engine, count: int = 10) -> dict[str, float]:
    """Generate `count` queued images; `busy` is the share of time in which the GPU ran a kernel, by the profiler."""

    async def burst() -> None:
        await asyncio.gather(*(_generate(engine, request(seed)) for seed in range(count)))

    asyncio.run(_generate(engine, request(0)))
    began = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        asyncio.run(burst())
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    spans = sorted((e.time_range.start, e.time_range.end) for e in trace.events() if e.device_type.name == "CUDA")
    busy, until = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, until))
        until = max(until, stop)
    return {"pictures": count, "seconds": seconds, "busy": busy / (until - spans[0][0])}


def measure(folder: Path, precision: str) -> dict[str, Any]:
    """Measure loading a checkpoint and generating images with it."""
    model, engine, figures = load(folder, precision)
    for size in SIZES:
        figures["{}x{}".format(*size)] = images(engine, size)
        if size == (1024, 1024):  # measured before any larger size
            figures["peak GiB at 1024x1024"] = {
                "allocated": torch.cuda.max_memory_allocated() / 2**30,
                "reserved": torch.cuda.max_memory_reserved() / 2**30,
            }
    figures["640x480, its first ten"] = images(engine, (640, 480), count=9)
    figures["ms of the other parts"] = parts(model.pipeline)
    figures["queue of ten"] = queue(engine)
    engine.stop()
    return figures
