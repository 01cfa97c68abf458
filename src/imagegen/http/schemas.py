"""The request bodies of the image routes, with their defaults and bounds; `to_request` converts one for the engine."""

import secrets
import unicodedata
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from imagegen.image_file import Format
from imagegen.limits import MAX_SEED, MAX_SIDE, MIN_SIDE

if TYPE_CHECKING:
    from imagegen.request import Request

MAX_PROMPT = 5_000  # characters: about twice what the largest text encoder (512 tokens) reads, and it fits into EXIF


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
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Strength = Annotated[float, Field(ge=0.1, le=1.0)]
Guidance = Annotated[float, Field(ge=1.0, le=20.0)]
ImageBase64 = Annotated[str, Field(min_length=1, description="Base64, with or without a data URL: JPEG, PNG or WebP.")]


class Options(BaseModel):
    """Optional fields of all routes."""

    negative_prompt: Text | None = Field(default=None, description="What the image must not show.")
    true_cfg_scale: Guidance | None = Field(
        default=None,
        description="Guidance scale of the negative prompt (FLUX only; it takes a second forward pass per step). "
        "Default: 2 with a negative prompt, else off.",
    )


class GenerationInput(Options):
    """Text to image (`POST /generate`)."""

    prompt: Prompt
    height: int = Field(default=1024, ge=MIN_SIDE, le=MAX_SIDE)
    width: int = Field(default=1024, ge=MIN_SIDE, le=MAX_SIDE)
    num_inference_steps: int = Field(default=10, ge=1, le=30)
    guidance_scale: Guidance = 7.5
    seed: Seed | None = None
    format: Format = "jpeg"

    def to_request(self) -> "Request":
        """Return the engine's request."""
        return _request(self)


class MinifiedGenerationInput(BaseModel):
    """The smallest body of `/generate`."""

    prompt: Prompt = "a beautiful mountain landscape"


class BatchGenerationInput(Options):
    """Up to four prompts at once (`POST /batch`); image i has the seed `seed + i`."""

    prompts: list[Prompt] = Field(min_length=1, max_length=4)
    width: int = Field(default=1024, ge=512, le=MAX_SIDE)
    height: int = Field(default=1024, ge=512, le=MAX_SIDE)
    num_inference_steps: int = Field(default=20, ge=10, le=50)
    guidance_scale: Guidance = 7.5
    seed: Seed | None = None
    format: Format = "jpeg"

    def to_requests(self) -> "list[Request]":
        """Return one request for each prompt: each image is the same as for its prompt and seed alone."""
        first = secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed
        return [
            _request(self, prompt=prompt, seed=(first + i) % (MAX_SEED + 1)) for i, prompt in enumerate(self.prompts)
        ]


class Img2ImgInput(Options):
    """Image to image (`POST /img2img`); the result has the input's size unless another is given."""

    prompt: Prompt
    image_b64: ImageBase64
    strength: Strength = 0.75
    guidance_scale: Guidance = 7.5
    num_inference_steps: int = Field(default=28, ge=1, le=50)
    width: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    height: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    seed: Seed | None = None
    format: Format = "jpeg"

    def to_request(self) -> "Request":
        """Decode the image and return the engine's request. Slow: keep it off the event loop.

        Raises InputError or ImageTooLarge if the image cannot be used.
        """
        from imagegen.http.base64_images import decode_image

        return _request(self, image=decode_image(self.image_b64, field="image_b64"))


class InpaintInput(Options):
    """Repaint part of an image (`POST /inpaint`); the result has the input's size."""

    prompt: Prompt
    image_b64: ImageBase64
    mask_b64: str = Field(min_length=1, description="White is repainted, black is kept; resized to the image.")
    strength: Strength = 0.75
    guidance_scale: Guidance = 7.5
    num_inference_steps: int = Field(default=28, ge=1, le=50)
    seed: Seed | None = None
    format: Format = "png"

    def to_request(self) -> "Request":
        """Decode the image and the mask and return the engine's request. Slow: keep it off the event loop.

        Raises InputError or ImageTooLarge if one of them cannot be used.
        """
        from imagegen.http.base64_images import decode_image, decode_mask

        image = decode_image(self.image_b64, field="image_b64")
        return _request(self, image=image, mask=decode_mask(self.mask_b64, size=image.size, field="mask_b64"))


def _request(body: BaseModel, **fields: Any) -> "Request":
    """Return a request from a body's fields, renamed as in `Request`, and from further `fields`."""
    from imagegen.request import Request  # imports Pillow, which may be missing where `chutes build` runs

    values = body.model_dump(exclude={"prompts", "image_b64", "mask_b64", "format"})
    values |= {"steps": values.pop("num_inference_steps"), "guidance": values.pop("guidance_scale")}
    return Request(**values | fields)
