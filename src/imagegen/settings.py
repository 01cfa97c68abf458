"""What can be set from outside: environment variables that start with `IMAGEGEN_`."""

from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from imagegen.errors import LoadError


class Settings(BaseSettings):
    """Which model is loaded, and how. Each field is an environment variable: `IMAGEGEN_MODEL`, ..."""

    model_config = SettingsConfigDict(env_prefix="IMAGEGEN_", env_ignore_empty=True, use_attribute_docstrings=True)

    model: str | None = None
    """A pipeline folder, a hub id, or `bundled`. Unset: FLUX.1-dev where there is a GPU, else the bundled model."""

    precision: Literal["bf16", "fp8", "fp8+attention"] = "bf16"
    """Arithmetic of FLUX's transformer on a GPU; fp8 halves most of its weights and is faster, but not exact."""

    memory: Literal["auto", "resident", "offload", "stream"] | None = None
    """Where the weights live. Unset: the GPU must have what the chute asks for. `auto`: whatever fits."""

    max_sequence_length: int = Field(default=256, ge=1, le=512)
    """Tokens of the prompt that FLUX reads: 256 as on the documentation page, 512 at most."""

    oom_fallback: bool = True
    """Draw again at half the size and half the steps when the GPU's memory runs out."""

    @classmethod
    def read(cls) -> "Settings":
        """Read the environment. Raises `LoadError`, which names the variable that is wrong."""
        try:
            return cls()
        except ValidationError as error:
            wrong = error.errors()[0]
            name = f"IMAGEGEN_{str(wrong['loc'][0]).upper()}"
            raise LoadError(f"{name}={wrong['input']}: {wrong['msg'][0].lower()}{wrong['msg'][1:]}") from None
