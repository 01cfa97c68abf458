"""What a client may ask for: the request bodies, with their defaults and bounds."""

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from imagegen.image_file import Format

MAX_PROMPT = 5_000  # characters: twice what the largest text encoder (512 tokens) reads, and it fits into EXIF


def _printable(text: str) -> str:
    if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in text):
        raise ValueError("must not contain NUL or other control characters")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_printable)]
Prompt = Annotated[
    str, Field(min_length=1, max_length=MAX_PROMPT), AfterValidator(_printable), AfterValidator(_not_blank)
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Strength = Annotated[float, Field(ge=0.1, le=1.0)]
Guidance = Annotated[float, Field(ge=1.0, le=20.0)]


class Options(BaseModel):
    """What every route takes besides its own fields; all optional."""

    negative_prompt: Text | None = Field(default=None, description="What should not be in the picture.")
    true_cfg_scale: Guidance | None = Field(
        default=None,
        description="How strongly the negative prompt pushes (FLUX; a second forward pass per step). "
        "Default: 2 with a negative prompt, else off.",
    )


class GenerationInput(Options):
    """Text to image (`POST /generate`)."""

    prompt: Prompt
    height: int = Field(default=1024, ge=128, le=2048)
    width: int = Field(default=1024, ge=128, le=2048)
    num_inference_steps: int = Field(default=10, ge=1, le=30)
    guidance_scale: Guidance = 7.5
    seed: Seed | None = None
    format: Format = "jpeg"


class MinifiedGenerationInput(BaseModel):
    """The least that `/generate` needs."""

    prompt: Prompt = "a beautiful mountain landscape"


class BatchGenerationInput(Options):
    """Up to four prompts at once (`POST /batch`); picture i is drawn with `seed + i`."""

    prompts: list[Prompt] = Field(min_length=1, max_length=4)
    width: int = Field(default=1024, ge=512, le=2048)
    height: int = Field(default=1024, ge=512, le=2048)
    num_inference_steps: int = Field(default=20, ge=10, le=50)
    guidance_scale: Guidance = 7.5
    seed: Seed | None = None
    format: Format = "jpeg"


class Img2ImgInput(Options):
    """Image to image (`POST /img2img`); the answer has the input's size unless another is given."""

    prompt: Prompt
    image_b64: str = Field(min_length=1, description="Base64, with or without a data URL: JPEG, PNG or WebP.")
    strength: Strength = 0.75
    guidance_scale: Guidance = 7.5
    num_inference_steps: int = Field(default=28, ge=1, le=50)
    width: int | None = Field(default=None, ge=128, le=2048)
    height: int | None = Field(default=None, ge=128, le=2048)
    seed: Seed | None = None
    format: Format = "jpeg"


class InpaintInput(Options):
    """Repaint part of an image (`POST /inpaint`); the answer has the input's size."""

    prompt: Prompt
    image_b64: str = Field(min_length=1, description="Base64, with or without a data URL: JPEG, PNG or WebP.")
    mask_b64: str = Field(min_length=1, description="White is repainted, black stays; resized to the image.")
    strength: Strength = 0.75
    guidance_scale: Guidance = 7.5
    num_inference_steps: int = Field(default=28, ge=1, le=50)
    seed: Seed | None = None
    format: Format = "png"
