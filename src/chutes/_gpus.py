"""The GPU models that a NodeSelector can name, and the GPUs of this machine as the NVIDIA driver reports them.

As in advertised memory sizes, one GB is 1024**3 bytes.
"""

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import pynvml


class GpuModel(NamedTuple):
    """A GPU model: its advertised memory in GB, and a pattern that matches the driver's device name."""

    vram_gb: int
    device_pattern: str


@dataclass(frozen=True)
class Gpu:
    """A GPU of a machine.

    Attributes:
        kind: The model's key in `GPU_MODELS`; for another model, the driver's device name in lower case.
        vram_gb: Memory in GB.
    """

    kind: str
    vram_gb: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.vram_gb}"


@dataclass(frozen=True)
class GpuStatus:
    """The state of one GPU as NVML reports it.

    Attributes:
        index: The GPU's index on this machine.
        name: The driver's device name.
        memory_total: Memory in bytes.
        memory_used: Used memory in bytes.
        utilization: The fraction of time, 0 to 1, in which a kernel ran; None if it is unknown, as for a MIG slice.
    """

    index: int
    name: str
    memory_total: int
    memory_used: int
    utilization: float | None


REPORTED_SHARE = 0.93
"""The minimum fraction of its advertised memory that a GPU reports. ECC takes up to 6.3 %."""

_BYTES_PER_GB = 1024**3

# The first match wins, so a model comes before another one whose pattern also matches its name.
GPU_MODELS: dict[str, GpuModel] = {
    # GeForce
    "3060": GpuModel(12, r"RTX 3060(?! Ti)"),
    "3080": GpuModel(10, r"RTX 3080(?! Ti)"),
    "3090": GpuModel(24, r"RTX 3090"),
    "4060_ti": GpuModel(16, r"RTX 4060 Ti"),
    "4070": GpuModel(12, r"RTX 4070(?! Ti)"),
    "4080": GpuModel(16, r"RTX 4080"),
    "4090": GpuModel(24, r"RTX 4090"),
    "5070": GpuModel(12, r"RTX 5070(?! Ti)"),
    "5080": GpuModel(16, r"RTX 5080"),
    "5090": GpuModel(32, r"RTX 5090"),
    # Workstation
    "a4000_ada": GpuModel(20, r"RTX 4000.*Ada"),
    "a6000_ada": GpuModel(48, r"RTX 6000.*Ada"),
    "a4000": GpuModel(16, r"RTX A4000"),
    "a5000": GpuModel(24, r"RTX A5000"),
    "a6000": GpuModel(48, r"RTX A6000"),
    "pro_6000": GpuModel(96, r"RTX PRO 6000"),
    # Data centre
    "t4": GpuModel(16, r"\bT4\b"),
    "v100": GpuModel(16, r"V100(?!.*32GB)"),
    "v100_32gb": GpuModel(32, r"V100.*32GB"),
    "l4": GpuModel(24, r"\bL4\b"),
    "a10": GpuModel(24, r"\bA10G?\b"),
    "a40": GpuModel(48, r"\bA40\b"),
    "l40s": GpuModel(48, r"L40S"),
    "l40": GpuModel(48, r"L40(?!S)"),
    "a100_40gb_sxm": GpuModel(40, r"A100.*SXM.*40GB"),
    "a100_40gb": GpuModel(40, r"A100.*40GB"),
    "a100_sxm": GpuModel(80, r"A100.*SXM"),
    "a100": GpuModel(80, r"A100"),
    "h100_nvl": GpuModel(96, r"H100.*NVL"),
    "h100_sxm": GpuModel(80, r"H100.*(HBM3|SXM)"),
    "h100": GpuModel(80, r"H100"),
    "h800": GpuModel(80, r"H800"),
    "h20": GpuModel(96, r"\bH20\b"),
    "h200": GpuModel(141, r"\bH200"),
    "b200": GpuModel(180, r"\bB200"),
    "gb200": GpuModel(186, r"GB200"),
    "b300": GpuModel(288, r"\bB300"),
    "mi300x": GpuModel(192, r"MI300X"),
}

# Prefixes that users write before a model's name, and the memory sizes that the bare name implies.
_PREFIX = re.compile(r"^(nvidia|geforce|tesla|quadro|rtx|amd|instinct)[ _-]*")
_DEFAULT_SIZE = {"a100": "80gb", "h100": "80gb", "v100": "16gb", "h200": "141gb"}


def gpu_kind(device_name: str) -> str | None:
    """Return the kind of a GPU, a key of `GPU_MODELS`, for a device name (`NVIDIA H200` -> `h200`); None if unknown."""
    for name, model in GPU_MODELS.items():
        if re.search(model.device_pattern, device_name):
            return name
    return None


def nearest_kind(spelling: str) -> str | None:
    """Return the kind for a common spelling (`rtx4090` -> `4090`, `a100-80gb` -> `a100`), or None."""
    name = spelling.strip().lower()
    if name in GPU_MODELS:
        return name
    while (shorter := _PREFIX.sub("", name)) != name:
        name = shorter
    name = re.sub(r"[ -]+", "_", name)
    family, _, size = name.partition("_")
    if size == _DEFAULT_SIZE.get(family):
        name = family
    candidates = (name, name.replace("_", ""), f"a{name}")
    return next((candidate for candidate in candidates if candidate in GPU_MODELS), None)


def installed_gpus() -> list[Gpu]:
    """Return the GPUs of this machine, or an empty list without a driver."""
    return [identify_gpu(status.name, status.memory_total) for status in query_gpus()]


def identify_gpu(device_name: str, memory: int) -> Gpu:
    """Return the GPU with this device name and memory in bytes.

    The result has the advertised memory of its model. A MIG slice, which has less, has the memory that it reports.
    """
    kind = gpu_kind(device_name)
    if kind is not None and memory >= REPORTED_SHARE * GPU_MODELS[kind].vram_gb * _BYTES_PER_GB:
        return Gpu(kind, GPU_MODELS[kind].vram_gb)
    unknown = re.sub(r"[^a-z0-9]+", "_", device_name.lower().removeprefix("nvidia ")).strip("_")
    return Gpu(kind or unknown, math.ceil(memory / _BYTES_PER_GB))


def query_gpus() -> list[GpuStatus]:
    """Return the state of each GPU of this machine, or an empty list without a driver."""
    found: list[GpuStatus] = []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return found
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            with suppress(pynvml.NVMLError):  # a GPU that fell off the bus
                found.append(_query_gpu(index))
    finally:
        pynvml.nvmlShutdown()
    return found


def _query_gpu(index: int) -> GpuStatus:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    utilization = None
    with suppress(pynvml.NVMLError):
        utilization = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    return GpuStatus(index, name.decode() if isinstance(name, bytes) else name, memory.total, memory.used, utilization)
