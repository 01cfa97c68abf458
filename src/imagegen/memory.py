"""Decide whether a model fits: check the machine before anything is read, and choose where the weights are kept.

There are three plans: `resident` keeps everything on the GPU, `offload` one component at a time, and `stream` one layer
at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from imagegen.errors import NodeTooSmall

Plan = Literal["resident", "offload", "stream"]

_GB = 10**9
_ACTIVATIONS = 6 * _GB  # beside the weights, at 2048x2048: attention, feed-forward and the VAE's last layers
_REPORTED_SHARE = 0.92  # a GPU advertised with 24 GB reports 22 to 25.4, depending on its error correction


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine: its name, and its memory in bytes."""

    name: str
    memory: int


@dataclass(frozen=True)
class Needs:
    """The GPUs that a machine must have; the fields are those of a chute's `NodeSelector`."""

    gpu_count: int = 1
    min_vram_gb_per_gpu: float = 0


def gpus() -> list[Gpu]:
    """Return the CUDA devices that this process may use."""
    if not torch.cuda.is_available():
        return []
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [Gpu(device.name, device.total_memory) for device in devices]


def check(found: list[Gpu], needs: Needs) -> None:
    """Raise NodeTooSmall unless enough of the GPUs have the memory that is needed."""
    large_enough = [gpu for gpu in found if gpu.memory >= needs.min_vram_gb_per_gpu * _GB * _REPORTED_SHARE]
    if len(large_enough) >= needs.gpu_count:
        return
    have = ", ".join(f"{gpu.name} ({gpu.memory / _GB:.0f} GB)" for gpu in found) or "none"
    hint = " Set IMAGEGEN_MEMORY=auto to run it on a smaller one, more slowly." if found else ""
    raise NodeTooSmall(
        f"This chute needs {needs.gpu_count} GPU(s) with {needs.min_vram_gb_per_gpu:g} GB each; "
        f"this machine has: {have}.{hint}"
    )


def choose(memory: int, weights: Mapping[str, int]) -> Plan:
    """Return the first plan that fits weights (bytes by component) into a GPU of `memory` bytes."""
    if sum(weights.values()) + _ACTIVATIONS <= memory:
        return "resident"
    if max(weights.values()) + _ACTIVATIONS <= memory:
        return "offload"
    return "stream"


def place(pipeline: Any, plan: Plan) -> None:
    """Put a diffusers pipeline where the plan says. Unless it is `resident`, the VAE decodes in tiles too."""
    if plan == "resident":
        pipeline.to("cuda")
        return
    if plan == "offload":
        pipeline.enable_model_cpu_offload()
    else:
        pipeline.enable_group_offload(torch.device("cuda"), offload_type="leaf_level", use_stream=True)
    if hasattr(pipeline.vae, "enable_tiling"):
        pipeline.vae.enable_tiling()
        pipeline.vae.enable_slicing()
