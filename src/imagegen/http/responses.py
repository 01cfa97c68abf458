"""HTTP responses: images as files with `X-` headers, and errors as a status, a code and retry headers."""

import asyncio
import base64
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple, get_args

from fastapi import Header, Response
from fastapi.responses import JSONResponse

from imagegen import errors
from imagegen.image_file import Format

if TYPE_CHECKING:
    from imagegen.picture import Picture

Accept = Annotated[str, Header(include_in_schema=False)]  # OpenAPI has a place of its own for this header

_BATCH_QUALITY = 90  # of JPEG and WebP
_ANY = "*/*", "image/*"
_MAX_MEDIA_TYPES = 32  # of the header `Accept`; browsers send about eight


class _ErrorResponse(NamedTuple):
    """The response to a class of errors; `headers` say whether and when a client should retry."""

    status: int
    code: str
    headers: Mapping[str, str] = {}


_QUALITY = re.compile(r"[01](\.\d{0,3})?")  # RFC 9110, section 12.4.2
_RETRY_LATER = {"Retry-After": "5"}  # seconds
_NO_RETRY = {"x-should-retry": "false"}  # OpenAI's clients retry every status above 499 otherwise

# The response to an error is that of its class, or else of its nearest base class.
_ERRORS: dict[type[errors.ImagegenError], _ErrorResponse] = {
    errors.ImagegenError: _ErrorResponse(500, "generation_failed"),
    errors.InputError: _ErrorResponse(422, "value_error"),
    errors.ImageTooLarge: _ErrorResponse(413, "image_too_large"),
    errors.ImageRejected: _ErrorResponse(422, "image_rejected", _NO_RETRY),
    errors.Unsupported: _ErrorResponse(501, "unsupported", _NO_RETRY),
    errors.NotFinite: _ErrorResponse(500, "generation_failed", _NO_RETRY),
    errors.OutOfMemory: _ErrorResponse(503, "out_of_memory", _RETRY_LATER),
    errors.EngineStopped: _ErrorResponse(503, "engine_stopped", _RETRY_LATER),
    errors.EngineFailed: _ErrorResponse(503, "engine_failed", _RETRY_LATER),
}


def error_response(error: errors.ImagegenError) -> JSONResponse:
    """Return the response to an error. An InputError has the form of FastAPI's validation errors."""
    response = next(_ERRORS[base] for base in type(error).__mro__ if base in _ERRORS)
    body: dict[str, object] = {"detail": str(error), "code": response.code}
    if isinstance(error, errors.InputError):
        body = {"detail": [{"type": response.code, "loc": ["body", error.field], "msg": str(error)}]}
    return JSONResponse(body, response.status, dict(response.headers))


def accepted_format(accept: str, default: Format) -> Format:
    """Return the image format that the header `Accept` prefers; of several, the first with the highest `q`."""
    names: dict[str, Format] = {f"image/{name}": name for name in get_args(Format)} | dict.fromkeys(_ANY, default)
    best, best_quality = default, 0.0
    for entry in accept.lower().split(",", _MAX_MEDIA_TYPES)[:_MAX_MEDIA_TYPES]:
        media_type, *parameters = (part.strip() for part in entry.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        if media_type in names and _QUALITY.fullmatch(quality) and float(quality) > best_quality:
            best, best_quality = names[media_type], float(quality)
    return best


async def image_response(picture: "Picture", file_format: Format = "jpeg") -> Response:
    """Return an image as a file to download, described by its headers."""
    content = await asyncio.to_thread(picture.encode, file_format)
    name = f"{uuid.uuid4()}.{'jpg' if file_format == 'jpeg' else file_format}"
    headers = {**picture_headers(picture), "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=f"image/{file_format}", headers=headers)


async def batch_response(pictures: Sequence["Picture"], file_format: Format = "jpeg") -> JSONResponse:
    """Return images as a JSON list of base64 files.

    `X-Seed` lists all seeds. The other headers describe the first image with a fallback, or else the first image.
    """
    files = [await asyncio.to_thread(picture.encode, file_format, quality=_BATCH_QUALITY) for picture in pictures]
    described = next((picture for picture in pictures if picture.fallback), pictures[0])
    headers = {**picture_headers(described), "X-Seed": ",".join(str(picture.seed) for picture in pictures)}
    return JSONResponse([base64.b64encode(file).decode() for file in files], headers=headers)


def picture_headers(picture: "Picture") -> dict[str, str]:
    """Return the headers that describe an image: its seed, steps, model and sizes."""
    headers = {
        "X-Seed": str(picture.seed),
        "X-Steps": str(picture.metadata["num_inference_steps"]),
        "X-Model": str(picture.metadata["model"]).encode("ascii", "replace").decode(),
        "X-Model-Origin": picture.origin,
        "X-Precision": picture.precision,
        "X-Drawn-Size": "{}x{}".format(*picture.generated_size),
    }
    if picture.resized_from:
        headers["X-Resized-From"] = "{}x{}".format(*picture.resized_from)
    if unread := picture.metadata.get("unread_tokens"):
        headers["X-Unread-Tokens"] = str(unread)
    if picture.fallback:
        headers["X-Fallback"] = picture.fallback
    return headers
