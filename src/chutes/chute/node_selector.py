"""The GPUs that a chute needs."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from chutes._gpus import GPU_MODELS, REPORTED_SHARE, nearest_kind
from chutes._warn import did_you_mean, warn, warn_unknown
from chutes.chute._options import warn_without_effect


class NodeSelector(BaseModel):
    """The GPUs that a replica of a chute needs.

    A common spelling of a GPU name (`rtx4090`, `a100-80gb`) is replaced by the known name, with a warning. An unknown
    name matches no GPU and causes a warning. An unknown argument has no effect and causes a warning.

    Attributes:
        gpu_count: The number of GPUs, from 1 to 8; 1 by default.
        min_vram_gb_per_gpu: The minimum memory of each GPU, in GB as advertised; 16 by default.
        max_hourly_price_per_gpu: No effect. Your own GPUs have no price.
        include: The allowed GPU models, such as `h100` or `4090`; None allows all.
        exclude: The GPU models that are not allowed.
    """

    model_config = ConfigDict(extra="ignore")

    gpu_count: int = Field(default=1, ge=1, le=8)
    min_vram_gb_per_gpu: float = Field(default=16, gt=0, allow_inf_nan=False)
    max_hourly_price_per_gpu: float | None = Field(default=None, gt=0, lt=10)
    include: list[str] | None = None
    exclude: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _warn_unknown(cls, given: Any) -> Any:
        if isinstance(given, dict):
            warn_unknown("NodeSelector", given.keys() - cls.model_fields, cls.model_fields)
        return given

    @model_validator(mode="after")
    def _warn_without_effect(self) -> Self:
        warn_without_effect("NodeSelector", max_hourly_price_per_gpu=self.max_hourly_price_per_gpu)
        return self

    @field_validator("min_vram_gb_per_gpu")
    @classmethod
    def _int_if_whole(cls, value: float) -> float:
        return int(value) if value == int(value) else value

    @field_validator("include", "exclude")
    @classmethod
    def _normalize_names(cls, names: list[str] | None) -> list[str] | None:
        return None if names is None else [_normalize_name(name) for name in names]

    @property
    def supported_gpus(self) -> list[str]:
        """The known GPU models that this selector accepts."""
        return [name for name, gpu in GPU_MODELS.items() if self.accepts(name, gpu.vram_gb)]

    def accepts(self, kind: str | None, vram_gb: float) -> bool:
        """Return whether a GPU is accepted, given its kind (None if unknown) and its memory in GB."""
        if self.include is not None and not _is_one_of(kind, self.include):
            return False
        if self.exclude is not None and _is_one_of(kind, self.exclude):
            return False
        return vram_gb >= REPORTED_SHARE * self.min_vram_gb_per_gpu


def _is_one_of(kind: str | None, kinds: list[str]) -> bool:
    """Return whether a kind is in a list. `h100` also stands for its form factors, `h100_sxm` and `h100_nvl`."""
    return kind is not None and (kind in kinds or kind.removesuffix("_sxm").removesuffix("_nvl") in kinds)


def _normalize_name(name: str) -> str:
    known = nearest_kind(name)
    if known is None:
        warn(f"NodeSelector: {name!r} is not a known GPU.{did_you_mean(name, GPU_MODELS)}")
        return name.lower()
    if known != name.lower():
        warn(f"NodeSelector: {name!r} is read as {known!r}. Write {known!r}.")
    return known
