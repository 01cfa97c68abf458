"""One denoising step: its error, its time compared with peers, and the time of each kernel."""

from __future__ import annotations

import gc
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.flux.weights import inputs, transformer
from imagegen.flux.attention import attention, flash_attention_3
from imagegen.flux.kernels.fp8 import FP8
from imagegen.flux.model import FluxTransformer
from imagegen.flux.weights import copy_state

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = [(1024, 1024), (512, 512), (1920, 1088), (768, 1344)]
STEPS = 28


class Schedule:
    """The part of a pipeline's scheduler that our transformer reads."""

    timesteps = torch.linspace(1000, 1000 / STEPS, STEPS)


def scheduled(width: int, height: int) -> dict[str, torch.Tensor]:
    """Return inputs for the first timestep of `Schedule`, for which the modulation is precomputed."""
    return {**inputs(width, height), "timestep": torch.ones(1, device="cuda", dtype=torch.bfloat16)}


def ours(reference: Any, precision: str = "bf16") -> FluxTransformer:
    """Return our transformer with the weights of a diffusers transformer."""
    model = FluxTransformer(reference.config, fp8=precision != "bf16", fp8_attention=precision == "fp8+attention")
    copy_state(model, reference.state_dict())
    return model


def timed(run: Callable[[], object], repeats: int = 15) -> float:
    """Return the median time of `run` on the GPU in ms, after warm-up."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return float(median(times))


def matmul_peak() -> float:
    """Return the TFLOP/s of an 8192^3 bf16 matmul on this GPU."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / timed(lambda: a @ b, repeats=30) / 1e9


def under_load(run: Callable[[], object], seconds: float = 4.0) -> dict[str, float]:
    """Return the median time of `run` in ms, the clock and the power, in the second half of constant load."""
    rows: list[tuple[float, int, float]] = []
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        clock, power = torch.cuda.clock_rate(), torch.cuda.power_draw() / 1e3  # while it runs
        torch.cuda.synchronize()
        if elapsed > seconds / 2:
            rows.append((start.elapsed_time(stop), clock, power))
    return dict(zip(("ms", "MHz", "W"), map(median, zip(*rows, strict=True)), strict=True))


@torch.inference_mode()
def constant_load(denoiser: Any) -> dict[str, dict[str, float]]:
    """Measure constant load: 64 matmuls of 8192^3, and steps of the fast path at 1024x1024."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    matmuls = under_load(lambda: [torch.mm(a, b) for _ in range(64)])
    matmuls["TFLOP/s"] = 64 * 2 * 8192**3 / matmuls["ms"] / 1e9
    figures = {"matmul": matmuls}
    for precision in ("bf16", "fp8"):
        model = ours(denoiser, precision)
        model.bind_scheduler(Schedule())
        given = scheduled(1024, 1024)
        figures[f"ours {precision}"] = under_load(lambda model=model, given=given: model(**given))  # type: ignore[misc]
        del model
    return figures


def flop(width: int, height: int, text: int = 512) -> float:
    """Return the FLOP of a forward pass: 12 d² weights per row and block, attention over all rows, and embedders."""
    image, d, blocks = width * height // 256, 3072, 57
    rows = image + text
    linear = 2 * 12 * d * d * rows * blocks
    attention = 4 * rows * rows * d * blocks
    embedders = 2 * d * (64 * 2 * image + 4096 * text)
    return linear + attention + embedders


@torch.inference_mode()
def exactness(denoiser: Any, sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Return the relative error of each path against the same weights in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    paths = {"diffusers bf16": denoiser, "ours bf16": ours(denoiser)}
    outs: dict[tuple[str, tuple[int, int]], torch.Tensor] = {}

    def given(size: tuple[int, int]) -> dict[str, torch.Tensor]:
        return inputs(*size, seed=size[0])

    for name, model in paths.items():
        for size in sizes:
            outs[name, size] = model(**given(size), return_dict=False)[0]
    del paths
    for precision in ("fp8", "fp8+attention"):
        model = ours(denoiser, precision)
        for size in sizes:
            outs[f"ours {precision}", size] = model(**given(size), return_dict=False)[0]
        del model
    release()
    reference = transformer(torch.float32)
    reference.load_state_dict(denoiser.state_dict())
    rows = []
    for size in sizes:
        wide = {name: value.float() for name, value in given(size).items()}
        expected = reference(**wide, return_dict=False)[0]
        row: dict[str, Any] = {"size": f"{size[0]}x{size[1]}"}
        for name in ("diffusers bf16", "ours bf16", "ours fp8", "ours fp8+attention"):
            row[name] = float((outs[name, size].float() - expected).norm() / expected.norm())
        row["ratio"] = row["ours bf16"] / row["diffusers bf16"]
        rows.append(row)
    return rows


@torch.inference_mode()
def our_steps(denoiser: Any, precision: str) -> dict[str, float]:
    """Return the fast path's median ms per step at each size; `first …` is the wall time of a first step."""
    model = ours(denoiser, precision)
    model.bind_scheduler(Schedule())
    out = {}
    for index, (width, height) in enumerate(SIZES):
        given = scheduled(width, height)
        torch.cuda.synchronize()
        began = time.perf_counter()
        model(**given, return_dict=False)
        torch.cuda.synchronize()
        if index:
            out[f"first {width}x{height}"] = (time.perf_counter() - began) * 1e3
        out[f"{width}x{height}"] = timed(lambda given=given: model(**given, return_dict=False))  # type: ignore[misc]
    return out


@torch.inference_mode()
def peer_steps(model: Any, sizes: list[tuple[int, int]]) -> dict[str, float]:
    """Return the median ms of a step of a diffusers transformer at each size, and the wall time of its first step."""
    out = {}
    for width, height in sizes:
        given = inputs(width, height)
        began = time.perf_counter()
        model(**given, return_dict=False)
        torch.cuda.synchronize()
        out[f"first {width}x{height}"] = (time.perf_counter() - began) * 1e3
        out[f"{width}x{height}"] = timed(lambda given=given: model(**given, return_dict=False))  # type: ignore[misc]
    return out


@torch.inference_mode()
def attention_alone() -> dict[str, float]:
    """Return the median ms of an attention call at 1024x1024: the fast path's, cuDNN's, and fp8 with its cast."""
    qkv = torch.randn(1, 4608, 3, 24, 128, device="cuda", dtype=torch.bfloat16)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    figures = {"ours": timed(lambda: attention(qkv), 50)}
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        figures["cuDNN"] = timed(lambda: functional.scaled_dot_product_attention(q, k, v), 50)
    if flash_attention_3() is not None:
        figures["fp8, with the cast"] = timed(lambda: attention(qkv.to(FP8)), 50)
    return figures


@torch.inference_mode()
def kernels_of_a_step(
    denoiser: Any, precision: str = "bf16", size: tuple[int, int] = (1024, 1024)
) -> list[dict[str, Any]]:
    """Return the GPU time of each kernel in one step, longest first."""
    model = ours(denoiser, precision)
    model.bind_scheduler(Schedule())
    given = scheduled(*size)
    for _ in range(2):
        model(**given)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as trace:
        model(**given)
        torch.cuda.synchronize()
    rows = [
        {"kernel": event.key[:110], "calls": event.count, "ms": event.device_time_total / 1e3}
        for event in trace.key_averages()
        if event.device_time_total > 0
    ]
    return sorted(rows, key=lambda row: -row["ms"])


def release() -> None:
    """Return freed GPU memory to the driver."""
    gc.collect()
    torch.cuda.empty_cache()
