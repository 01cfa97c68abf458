"""The GPUs that a NodeSelector can name: memory, and how the driver spells each."""

import re
from typing import NamedTuple


class Gpu(NamedTuple):
    """One kind of card: memory in GB as it is sold, and a pattern of the driver's device name."""

    vram_gb: int
    device_name: str


LEAST_REPORTED = 0.93
"""A card reports at least this part of the memory that it is sold with; one that checks it for errors, 6.3 % less."""

# Order matters where one pattern would match another's card: the first match wins.
GPUS: dict[str, Gpu] = {
    # GeForce
    "3060": Gpu(12, r"RTX 3060(?! Ti)"),
    "3080": Gpu(10, r"RTX 3080(?! Ti)"),
    "3090": Gpu(24, r"RTX 3090"),
    "4060_ti": Gpu(16, r"RTX 4060 Ti"),
    "4070": Gpu(12, r"RTX 4070(?! Ti)"),
    "4080": Gpu(16, r"RTX 4080"),
    "4090": Gpu(24, r"RTX 4090"),
    "5070": Gpu(12, r"RTX 5070(?! Ti)"),
    "5080": Gpu(16, r"RTX 5080"),
    "5090": Gpu(32, r"RTX 5090"),
    # Workstation
    "a4000_ada": Gpu(20, r"RTX 4000.*Ada"),
    "a6000_ada": Gpu(48, r"RTX 6000.*Ada"),
    "a4000": Gpu(16, r"RTX A4000"),
    "a5000": Gpu(24, r"RTX A5000"),
    "a6000": Gpu(48, r"RTX A6000"),
    "pro_6000": Gpu(96, r"RTX PRO 6000"),
    # Data centre
    "t4": Gpu(16, r"\bT4\b"),
    "v100": Gpu(16, r"V100(?!.*32GB)"),
    "v100_32gb": Gpu(32, r"V100.*32GB"),
    "l4": Gpu(24, r"\bL4\b"),
    "a10": Gpu(24, r"\bA10G?\b"),
    "a40": Gpu(48, r"\bA40\b"),
    "l40s": Gpu(48, r"L40S"),
    "l40": Gpu(48, r"L40(?!S)"),
    "a100_40gb_sxm": Gpu(40, r"A100.*SXM.*40GB"),
    "a100_40gb": Gpu(40, r"A100.*40GB"),
    "a100_sxm": Gpu(80, r"A100.*SXM"),
    "a100": Gpu(80, r"A100"),
    "h100_nvl": Gpu(96, r"H100.*NVL"),
    "h100_sxm": Gpu(80, r"H100.*(HBM3|SXM)"),
    "h100": Gpu(80, r"H100"),
    "h800": Gpu(80, r"H800"),
    "h20": Gpu(96, r"\bH20\b"),
    "h200": Gpu(141, r"H200"),
    "b200": Gpu(180, r"\bB200"),
    "gb200": Gpu(186, r"GB200"),
    "b300": Gpu(288, r"\bB300"),
    "mi300x": Gpu(192, r"MI300X"),
}

# Ways in which people write these names.
_PREFIX = re.compile(r"^(nvidia|geforce|tesla|quadro|rtx|amd|instinct)[ _-]*")
_DEFAULT_SIZE = {"a100": "80gb", "h100": "80gb", "v100": "16gb", "h200": "141gb"}


def gpu_id(device_name: str) -> str | None:
    """The table's name for what the driver calls this card (`NVIDIA H200` -> `h200`), or None."""
    for name, gpu in GPUS.items():
        if re.search(gpu.device_name, device_name):
            return name
    return None


def nearest_gpu(written: str) -> str | None:
    """The table's name for what somebody wrote (`rtx4090` -> `4090`, `a100-80gb` -> `a100`), or None."""
    name = written.strip().lower()
    if name in GPUS:
        return name
    while (shorter := _PREFIX.sub("", name)) != name:
        name = shorter
    name = re.sub(r"[ -]+", "_", name)
    family, _, size = name.partition("_")
    if size == _DEFAULT_SIZE.get(family):
        name = family
    candidates = (name, name.replace("_", ""), f"a{name}")
    return next((candidate for candidate in candidates if candidate in GPUS), None)
