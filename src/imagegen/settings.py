"""The settings of image generation: environment variables that start with `IMAGEGEN_`."""

import logging
import os
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from imagegen.errors import LoadError

log = logging.getLogger(__name__)

Precision = Literal["bf16", "fp8", "fp8+attention"]
MemoryPlan = Literal["resident", "offload", "stream"]
"""Where the weights are kept; see `imagegen.memory`."""

PREFIX = "IMAGEGEN_"
_MAX_EDITS = 2


class Settings(BaseSettings):
    """The model to load, and how to load it.

    Each field is an environment variable, such as `IMAGEGEN_MODEL`. Its docstring is its description in the
    documentation. An empty variable counts as unset.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, use_attribute_docstrings=True)

    model: str | None = None
    """Model to load: a folder in diffusers' layout, a Hugging Face ID that `chutes download` fetched, or `bundled`.
    Unset: `black-forest-labs/FLUX.1-dev` on a machine with a GPU, else `bundled`."""

    precision: Precision = "bf16"
    """Arithmetic of FLUX.1's transformer on a GPU. `fp8` halves the memory of its weights and is faster, but changes
    images slightly; it needs an Ada or Hopper GPU. `fp8+attention` computes attention in fp8 as well; it needs a
    Hopper GPU and the package `fa3-fwd`."""

    memory: Literal["auto", MemoryPlan] | None = None
    """Where the weights are kept. `resident`: on the GPU. `offload`: in main memory, with one component at a time on
    the GPU. `stream`: in main memory, with one layer at a time on the GPU. `auto`: the first of these that fits. Unset:
    as `auto`, but a large model does not load on a GPU smaller than the chute's `node_selector` requires."""

    scheduler: str | None = None
    """Scheduler of requests that name none: diffusers' class name, or a short name such as `euler a`. Unset: the
    model's own."""

    max_sequence_length: int | None = Field(default=None, ge=1, le=512)
    """Number of tokens to which the text encoder pads or truncates each prompt. Unset: the model's own, which is 256
    for FLUX.1-dev."""

    oom_fallback: bool = True
    """When the GPU's memory runs out, generate the image again at half the size with half the steps."""

    metadata: bool = True
    """Write the prompts and the seed into image files. Without them, a file holds only the other values."""

    @classmethod
    def read(cls) -> "Settings":
        """Read the environment and log a warning for each misspelt name. Raises LoadError if a value is invalid."""
        for warning in misspelt_settings(os.environ):
            log.warning("%s", warning)
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = f"{PREFIX}{str(first['loc'][0]).upper()}"
            reason = f"{first['msg'][0].lower()}{first['msg'][1:]}"
            raise LoadError(f"{name}={first['input']} is invalid: {reason}.") from None


def misspelt_settings(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable whose name is at most two edits away from the name of a setting."""
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    for variable, value in environment.items():
        name = variable.upper()
        if not value or name in known:
            continue
        nearest = min(known, key=lambda setting: _edits(name, setting))
        if _edits(name, nearest) <= _MAX_EDITS:
            yield f"{variable} is not a setting and has no effect. Did you mean {nearest}?"


def _edits(one: str, other: str) -> int:
    """Return the Levenshtein distance: the number of characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
