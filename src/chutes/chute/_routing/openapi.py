"""What the OpenAPI document says of a cord beyond its parameters: the answer's type, an example, a summary."""

import inspect
import types
import typing
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError
from starlette.responses import Response

from chutes.chute._handler import responses
from chutes.chute.cord import Cord

_STREAMS = (
    typing.AsyncIterator,
    typing.AsyncGenerator,
    typing.AsyncIterable,
    typing.Iterator,
    typing.Generator,
    typing.Iterable,
)
_STREAM_ORIGINS = frozenset(typing.get_origin(kind) for kind in _STREAMS)


def describe(cord: Cord) -> dict[str, Any]:
    """Keyword arguments for the route: `summary`, `responses`, `openapi_extra`."""
    first_line = (inspect.getdoc(cord.func) or "").partition("\n")[0].strip()
    request = _request(cord)
    return {
        "summary": first_line.rstrip(".") or None,
        "responses": {200: _response(cord)},
        "openapi_extra": {"requestBody": request} if request else None,
    }


def _request(cord: Cord) -> dict[str, Any]:
    if cord.passthrough:
        schema = cord.input_model.model_json_schema() if cord.input_model else {}
        has_body = cord.public_api_method not in {"GET", "HEAD"}
        return {"content": {responses.JSON: {"schema": schema}}} if has_body else {}
    if cord.handler is None or cord.handler.body is None:
        return {}
    request: dict[str, Any] = {"required": cord.handler.body.is_required}
    if (example := cord.minimal_example) is not None:
        request["content"] = {responses.JSON: {"example": example}}
    return request


def _response(cord: Cord) -> dict[str, Any]:
    """The answer with status 200: its content type and schema."""
    hint = cord.return_hint
    kind, content_type = hint, cord.content_type
    stream = cord.stream or typing.get_origin(hint) in _STREAM_ORIGINS
    if isinstance(kind, type) and issubclass(kind, Response):
        content_type = content_type or kind.media_type
        kind = None
    if cord.passthrough:
        return {"description": "The upstream's answer"}
    if stream:
        return _answer(content_type or responses.JSON_LINES, {"type": "string"}, "The answer, piece by piece")
    if content_type is not None and not responses.is_json(content_type):
        text = content_type.startswith("text/")
        return _answer(content_type, {"type": "string"} if text else {"type": "string", "format": "binary"})
    if kind is None or not _has_schema(kind):
        return _answer(content_type or responses.JSON, {}) if kind is not None or content_type else {}
    if kind is bytes:
        return _answer("application/octet-stream", {"type": "string", "format": "binary"})
    return {"model": kind}


def _answer(content_type: str, schema: dict[str, Any], description: str = "Successful Response") -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": schema}}}


def _has_schema(hint: Any) -> bool:
    if hint is types.NoneType:
        return True
    try:
        TypeAdapter(hint).json_schema(mode="serialization")
    except (PydanticSchemaGenerationError, PydanticUserError):
        return False
    return True
