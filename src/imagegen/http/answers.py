"""Answers: pictures as files with `X-` headers, and errors as a status, a code and advice on retrying."""

import asyncio
import base64
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastapi import Response
from fastapi.responses import JSONResponse

from imagegen import errors
from imagegen.image_file import Format

if TYPE_CHECKING:
    from imagegen.picture import Picture

_BATCH_QUALITY = 90  # of JPEG and WebP


class _ErrorAnswer(NamedTuple):
    """How an error is answered; `headers` say whether and when to send the same request again."""

    status: int
    code: str
    headers: Mapping[str, str] = {}


_LATER = {"Retry-After": "5"}  # seconds
_NEVER = {"x-should-retry": "false"}  # OpenAI's clients retry every status above 499 otherwise

# An error is answered as its class says, or the nearest class that it derives from.
_ERRORS: dict[type[errors.ImagegenError], _ErrorAnswer] = {
    errors.ImagegenError: _ErrorAnswer(500, "generation_failed"),
    errors.InputError: _ErrorAnswer(422, "value_error"),
    errors.ImageTooLarge: _ErrorAnswer(413, "image_too_large"),
    errors.Unsupported: _ErrorAnswer(501, "unsupported", _NEVER),
    errors.NotFinite: _ErrorAnswer(500, "generation_failed", _NEVER),
    errors.OutOfMemory: _ErrorAnswer(503, "out_of_memory", _LATER),
    errors.EngineStopped: _ErrorAnswer(503, "engine_stopped", _LATER),
    errors.EngineFailed: _ErrorAnswer(503, "engine_failed", _LATER),
}


def error_response(error: errors.ImagegenError) -> JSONResponse:
    """Return the answer to an error. Bad input names its field in the same form as FastAPI's validation errors."""
    answer = next(_ERRORS[kind] for kind in type(error).__mro__ if kind in _ERRORS)
    body: dict[str, object] = {"detail": str(error), "code": answer.code}
    if isinstance(error, errors.InputError):
        body = {"detail": [{"type": answer.code, "loc": ["body", error.field], "msg": str(error)}]}
    return JSONResponse(body, answer.status, dict(answer.headers))


async def image_response(picture: "Picture", file_format: Format = "jpeg") -> Response:
    """Return a picture as a file to download, with its facts in the headers."""
    content = await asyncio.to_thread(picture.encode, file_format)
    name = f"{uuid.uuid4()}.{'jpg' if file_format == 'jpeg' else file_format}"
    headers = {**picture_headers(picture), "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=f"image/{file_format}", headers=headers)


async def batch_response(pictures: Sequence["Picture"], file_format: Format = "jpeg") -> JSONResponse:
    """Return pictures as a JSON list of base64 files.

    `X-Seed` lists all seeds. The other headers are those of the first picture, or of the first one that fell back.
    """
    files = [await asyncio.to_thread(each.encode, file_format, quality=_BATCH_QUALITY) for each in pictures]
    described = next((each for each in pictures if each.fallback), pictures[0])
    headers = {**picture_headers(described), "X-Seed": ",".join(str(each.seed) for each in pictures)}
    return JSONResponse([base64.b64encode(file).decode() for file in files], headers=headers)


def picture_headers(picture: "Picture") -> dict[str, str]:
    """Return the headers that describe a picture: its seed, steps, model and the size that the model generated."""
    headers = {
        "X-Seed": str(picture.seed),
        "X-Steps": str(picture.metadata["num_inference_steps"]),
        "X-Model": str(picture.metadata["model"]).encode("ascii", "replace").decode(),
        "X-Model-Origin": picture.origin,
        "X-Precision": picture.precision,
        "X-Drawn-Size": "{}x{}".format(*picture.drawn),
    }
    if picture.fallback:
        headers["X-Fallback"] = picture.fallback
    return headers
