"""The request bodies of the image routes, with their defaults and bounds; `to_request` converts one for the engine."""

import difflib
import secrets
import unicodedata
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from imagegen.errors import InputError
from imagegen.http.responses import accepted_format
from imagegen.image_file import Format
from imagegen.limits import MAX_SEED, MAX_SIDE, MIN_SIDE
from imagegen.profile import FLUX_DEV, Profile, Route

if TYPE_CHECKING:
    from imagegen.request import Request

MAX_PROMPT = 5_000  # characters: about twice what the largest text encoder (512 tokens) reads, and it fits into EXIF

# Line breaks of Word and PDF files: vertical tab, form feed and next line.
_SPACES = {ord(character): " " for character in "\v\f\x85"}


def _printable(text: str) -> str:
    text = text.translate(_SPACES)
    if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in text):
        raise ValueError("must not contain NUL or other control characters")
    return text


def _none_if_empty(text: str) -> str | None:
    return text or None


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _normalize_format(name: Any) -> Any:
    name = name.lower() if isinstance(name, str) else name
    return "jpeg" if name == "jpg" else name


FileFormat = Annotated[Format, BeforeValidator(_normalize_format)]
Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_printable)]
Prompt = Annotated[
    str, Field(min_length=1, max_length=MAX_PROMPT), AfterValidator(_printable), AfterValidator(_not_blank)
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
BatchSide = Annotated[int, Field(ge=512, le=MAX_SIDE)]
Strength = Annotated[float, Field(ge=0.1, le=1.0)]
# The widest bounds of all models; `Profile.check` knows those of the loaded one.
Steps = Annotated[int, Field(ge=1, le=100)]
Guidance = Annotated[float, Field(ge=0, le=100)]
ImageBase64 = Annotated[str, Field(min_length=1, description="An image file as base64, with or without a data URL.")]

_MAX_ERRORS = 100  # a body may have a hundred thousand unknown fields, each of which takes a search
_documented = FLUX_DEV


def document_profile(profile: Profile) -> None:
    """Show a model's defaults and bounds in the JSON schemas of the bodies. Until then, they are FLUX.1-dev's."""
    global _documented  # noqa: PLW0603 - a process serves one model
    _documented = profile


def _add_profile(schema: dict[str, Any], body: Any) -> None:
    """Write the documented model's defaults and bounds into the JSON schema of a body."""
    properties, bounds = schema["properties"], _documented.bounds(body.route)
    for name in ("num_inference_steps", "guidance_scale", "true_cfg_scale", "strength"):
        if name in properties and name not in bounds:
            del properties[name]
        elif name in properties:
            number = _number(properties[name])
            default, minimum, maximum = map(int if number["type"] == "integer" else float, bounds[name])
            number |= {"minimum": minimum, "maximum": maximum}
            if name != "true_cfg_scale":  # it is off without a negative prompt
                number["default"] = default
    if body.route in {"generate", "batch"}:
        for name, side in zip(("width", "height"), _documented.size, strict=True):
            _number(properties[name])["default"] = side


def _number(schema: dict[str, Any]) -> dict[str, Any]:
    """Replace a JSON schema's `anyOf` of a number and null by the number, in place, and return the schema."""
    number, _null = schema.pop("anyOf")
    schema.pop("default")
    schema |= number
    return schema


class Body(BaseModel):
    """Fields of all routes. An unknown field is an error, which suggests the nearest known one."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_add_profile)
    route: ClassVar[Route]

    negative_prompt: Text | None = Field(default=None, description="What the image must not show.")
    true_cfg_scale: Guidance | None = Field(
        default=None,
        description="Guidance scale of the negative prompt, for models that have one beside `guidance_scale` (it takes "
        "a second forward pass per step). Default: 2 with a negative prompt, else off.",
    )
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    seed: Seed | None = None
    format: FileFormat = "jpeg"
    scheduler: Annotated[str, Field(max_length=100), AfterValidator(_none_if_empty)] | None = Field(
        default=None,
        description="Diffusers' class name, or a short name such as `euler a`. A wrong name is an error that lists the "
        "schedulers of the model.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_fields(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            found = error.errors(include_url=False)[:_MAX_ERRORS]
            if not any(each["type"] == "extra_forbidden" for each in found):
                raise
            details = [_with_suggestion(each, [*cls.model_fields]) for each in found]
            raise ValidationError.from_exception_data(error.title, details) from None

    def file_format(self, accept: str) -> Format:
        """Return the format of the response: the body's, else that of the header `Accept`, else the default."""
        return self.format if "format" in self.model_fields_set else accepted_format(accept, self.format)


def _with_suggestion(error: ErrorDetails, known: list[str]) -> InitErrorDetails:
    """Return a validation error; that of an unknown field suggests the nearest known one."""
    message = error["msg"]
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1])[:100], known, n=1)
        message = f"Unknown field. Did you mean {near[0]}?" if near else "Unknown field. Leave it out."
    kind = PydanticCustomError(error["type"], message, error.get("ctx"))
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"])


class GenerationInput(Body):
    """Text to image (`POST /generate`)."""

    route = "generate"

    prompt: Prompt
    height: Side | None = None
    width: Side | None = None

    def to_request(self, profile: Profile) -> "Request":
        """Return the engine's request. Raises InputError if a value is outside the model's bounds."""
        from imagegen.request import Request  # imports Pillow, which may be missing where `chutes build` runs

        return Request(**_checked_fields(self, profile))


class MinifiedGenerationInput(BaseModel):
    """The smallest body of `/generate`."""

    prompt: Prompt = "a beautiful mountain landscape"


class BatchGenerationInput(Body):
    """Up to four prompts at once (`POST /batch`); image i has the seed `seed + i`."""

    route = "batch"

    prompts: list[Prompt] = Field(min_length=1, max_length=4)
    width: BatchSide | None = None
    height: BatchSide | None = None

    def to_requests(self, profile: Profile) -> "list[Request]":
        """Return one request for each prompt. The other images of the batch do not affect an image.

        Raises InputError if a value is outside the model's bounds.
        """
        from imagegen.request import Request

        fields = _checked_fields(self, profile)
        first = secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed
        return [
            Request(**{**fields, "prompt": prompt, "seed": (first + i) % (MAX_SEED + 1)})
            for i, prompt in enumerate(self.prompts)
        ]


class Img2ImgInput(Body):
    """Image to image (`POST /img2img`); the result has the first input's size unless another is given."""

    route = "img2img"

    prompt: Prompt
    image_b64: ImageBase64 | None = None
    images_b64: list[ImageBase64] | None = Field(
        default=None, min_length=1, max_length=4, description="Several images, for models that combine them."
    )
    strength: Strength | None = None
    width: Side | None = None
    height: Side | None = None

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        if (self.image_b64 is None) == (self.images_b64 is None):
            given = "neither" if self.image_b64 is None else "both"
            raise ValueError(f"send either image_b64 or images_b64; got {given}")
        return self

    def to_request(self, profile: Profile) -> "Request":
        """Decode the images and return the engine's request. Slow: keep it off the event loop.

        Raises InputError or ImageTooLarge if an image cannot be used, or a value is outside the model's bounds.
        """
        from imagegen.http.base64_images import decode_image
        from imagegen.request import Request

        fields = _checked_fields(self, profile)
        if self.images_b64 is None:
            sent = decode_image(self.image_b64 or "", field="image_b64", width=self.width, height=self.height)
            return Request(**fields, image=sent.image, resized_from=sent.resized_from)
        if len(self.images_b64) > profile.max_images:
            message = f"images_b64 has {len(self.images_b64)} images; this model takes at most {profile.max_images}."
            raise InputError(f"{message} Leave some out.", field="images_b64")
        first = decode_image(self.images_b64[0], field="images_b64", width=self.width, height=self.height)
        others = tuple(decode_image(each, field="images_b64").image for each in self.images_b64[1:])
        return Request(**fields, image=first.image, references=others, resized_from=first.resized_from)


class InpaintInput(Body):
    """Repaint part of an image (`POST /inpaint`); the result has the input's size."""

    route = "inpaint"

    prompt: Prompt
    image_b64: ImageBase64
    mask_b64: str = Field(min_length=1, description="White is repainted, black is kept; resized to the image.")
    strength: Strength | None = None
    format: FileFormat = "png"

    def to_request(self, profile: Profile) -> "Request":
        """Decode the image and the mask and return the engine's request. Slow: keep it off the event loop.

        Raises InputError or ImageTooLarge if one of them cannot be used, or a value is outside the model's bounds.
        """
        from imagegen.http.base64_images import decode_image, decode_mask
        from imagegen.request import Request

        fields = _checked_fields(self, profile)
        sent = decode_image(self.image_b64, field="image_b64")
        mask = decode_mask(self.mask_b64, size=sent.image.size, field="mask_b64")
        return Request(**fields, image=sent.image, mask=mask, resized_from=sent.resized_from)


def _checked_fields(body: Body, profile: Profile) -> dict[str, Any]:
    """Return a body's fields, renamed as in `Request`, without images. Raises InputError for a value out of bounds."""
    fields = body.model_dump(exclude={"prompts", "image_b64", "images_b64", "mask_b64", "format"})
    profile.check(body.route, fields)
    steps, guidance = fields.pop("num_inference_steps"), fields.pop("guidance_scale")
    default = int(profile.steps_on(body.route).default)  # here, since the engine does not know the route `batch`
    return {**fields, "steps": default if steps is None else steps, "guidance": guidance}
