"""Which machines a chute may run on."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from chutes._gpus import GPU_MODELS, REPORTED_SHARE, gpu_id, nearest_gpu
from chutes._warn import did_you_mean, warn, warn_unknown

__all__ = ["NodeSelector", "gpu_id"]


class NodeSelector(BaseModel):
    """How many GPUs, with how much memory each (in GB), of which kinds.

    `include` and `exclude` take names of the GPU table (`h100`, `4090`, …). A name that is not in it is warned of
    and kept; a usual spelling of one that is (`rtx4090`, `a100-80gb`) is understood. `max_hourly_price_per_gpu` has
    no meaning on one's own machines and is only kept.
    """

    model_config = ConfigDict(extra="ignore")

    gpu_count: int = Field(default=1, ge=1, le=8)
    min_vram_gb_per_gpu: float = Field(default=16, gt=0, allow_inf_nan=False)
    max_hourly_price_per_gpu: float | None = Field(default=None, gt=0, lt=10)
    include: list[str] | None = None
    exclude: list[str] | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        warn_unknown("NodeSelector", settings.keys() - type(self).model_fields, type(self).model_fields)

    @field_validator("min_vram_gb_per_gpu")
    @classmethod
    def _whole(cls, value: float) -> float:
        return int(value) if value == int(value) else value

    @field_validator("include", "exclude")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        return None if names is None else [_known_name(name) for name in names]

    @property
    def supported_gpus(self) -> list[str]:
        """The kinds of GPU in the table that this selects, in the table's order."""
        return [name for name, gpu in GPU_MODELS.items() if self.accepts(name, gpu.vram_gb)]

    def accepts(self, gpu: str | None, vram_gb: float) -> bool:
        """Whether one card will do: its name in the table (None if unknown there) and its memory in GB."""
        if self.include is not None and not _is_one_of(gpu, self.include):
            return False
        if self.exclude is not None and _is_one_of(gpu, self.exclude):
            return False
        return vram_gb >= REPORTED_SHARE * self.min_vram_gb_per_gpu


def _is_one_of(gpu: str | None, names: list[str]) -> bool:
    """`h100` also stands for its form factors, `h100_sxm` and `h100_nvl`."""
    return gpu is not None and (gpu in names or gpu.removesuffix("_sxm").removesuffix("_nvl") in names)


def _known_name(name: str) -> str:
    known = nearest_gpu(name)
    if known is None:
        warn(f"NodeSelector: {name!r} is no known GPU{did_you_mean(name, GPU_MODELS)}")
        return name.lower()
    if known != name.lower():
        warn(f"NodeSelector: {name!r} is read as {known!r}; write that")
    return known
