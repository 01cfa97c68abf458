"""Check that a machine's GPUs suffice for a model, and choose where its weights are kept.

There are three plans: `resident` keeps all weights on the GPU, `offload` one component at a time, and `stream` one
layer at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from imagegen.errors import NodeTooSmall
from imagegen.settings import MemoryPlan

_ACTIVATIONS = 6 * 10**9  # bytes in addition to the weights, at 2048x2048: attention, MLP and the VAE's last layers
_BYTES_PER_GB = 1024**3  # as GPUs are advertised, and as a NodeSelector counts

# The least part of its advertised memory that a GPU may report. CUDA subtracts ECC and the driver's own memory: a T4
# with 16 GB reports 14.6, which is 91 %. `chutes._gpus` has a higher share, as NVML reports more, and as it has to tell
# a whole GPU from a MIG slice. Here a low share is safer: it never refuses a machine that can run the model.
_REPORTED_SHARE = 0.85


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine: its name, and its memory in bytes."""

    name: str
    memory: int


@dataclass(frozen=True)
class GpuRequirements:
    """The GPUs that a machine must have. The fields are those of a chute's `NodeSelector`."""

    gpu_count: int = 1
    min_vram_gb_per_gpu: float = 0


def gpus() -> list[Gpu]:
    """Return the CUDA devices that this process may use; an empty list without a GPU."""
    if not torch.cuda.is_available():
        return []
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [Gpu(device.name, device.total_memory) for device in devices]


def check(available: list[Gpu], required: GpuRequirements) -> None:
    """Raise NodeTooSmall unless enough of the GPUs have the required memory."""
    least = required.min_vram_gb_per_gpu * _BYTES_PER_GB * _REPORTED_SHARE
    if sum(gpu.memory >= least for gpu in available) >= required.gpu_count:
        return
    have = ", ".join(f"{gpu.name} ({gpu.memory / _BYTES_PER_GB:.0f} GB)" for gpu in available) or "none"
    smaller = "Set IMAGEGEN_MEMORY=auto to use a smaller GPU, more slowly."
    hint = smaller if available else "Set IMAGEGEN_MODEL=bundled to use the model that needs no GPU."
    raise NodeTooSmall(
        f"This chute needs {required.gpu_count} GPU(s) with {required.min_vram_gb_per_gpu:g} GB each; "
        f"this machine has: {have}. {hint}"
    )


def choose_plan(memory: int, weights: Mapping[str, int]) -> MemoryPlan:
    """Return the fastest plan that fits into a GPU of `memory` bytes; `weights` are bytes by component."""
    if sum(weights.values()) + _ACTIVATIONS <= memory:
        return "resident"
    if max(weights.values()) + _ACTIVATIONS <= memory:
        return "offload"
    return "stream"


def apply_plan(pipeline: Any, plan: MemoryPlan) -> None:
    """Move a diffusers pipeline to the GPU by a plan. Unless the plan is `resident`, the VAE also decodes in tiles."""
    if plan == "resident":
        pipeline.to("cuda")
        return
    if plan == "offload":
        pipeline.enable_model_cpu_offload()
    else:
        pipeline.enable_group_offload(torch.device("cuda"), offload_type="leaf_level", use_stream=True)
    vae: Any = getattr(pipeline, "vae", None)  # some pipelines have none, or call it differently
    if hasattr(vae, "enable_tiling"):
        vae.enable_tiling()
        vae.enable_slicing()
