"""OpenAPI documentation of a cord: its summary, an example request and the response type."""

import inspect
import types
import typing
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError
from starlette.responses import Response

from chutes.chute._handler.media import BINARY, JSON, JSON_LINES, is_json
from chutes.chute._handler.signature import BODYLESS, WholeBody
from chutes.chute.cord import Cord, Endpoint

_STREAMS = (
    typing.AsyncIterator,
    typing.AsyncGenerator,
    typing.AsyncIterable,
    typing.Iterator,
    typing.Generator,
    typing.Iterable,
)
_STREAM_ORIGINS = frozenset(typing.get_origin(kind) for kind in _STREAMS)


def describe(cord: Cord, endpoint: Endpoint) -> dict[str, Any]:
    """Return keyword arguments for FastAPI's route: `summary`, `responses` and `openapi_extra`."""
    first_line = (inspect.getdoc(cord.func) or "").partition("\n")[0].strip()
    request_body = _request_body(cord, endpoint.body)
    return {
        "summary": first_line.rstrip(".") or None,
        "responses": {200: _response(cord, endpoint.return_hint)},
        "openapi_extra": {"requestBody": request_body} if request_body else None,
    }


def _request_body(cord: Cord, body: WholeBody | None) -> dict[str, Any]:
    if cord.passthrough:
        schema = cord.input_model.model_json_schema() if cord.input_model else {}
        has_body = cord.public_api_method not in BODYLESS
        return {"content": {JSON: {"schema": schema}}} if has_body else {}
    if body is None:
        return {}
    request: dict[str, Any] = {"required": body.is_required}
    if (example := cord.minimal_example) is not None:
        request["content"] = {JSON: {"example": example}}
    return request


def _response(cord: Cord, hint: Any) -> dict[str, Any]:
    """Describe the response with status 200."""
    content_type = cord.content_type
    is_stream = cord.stream or typing.get_origin(hint) in _STREAM_ORIGINS
    if isinstance(hint, type) and issubclass(hint, Response):
        content_type = content_type or hint.media_type
        hint = None
    if cord.passthrough:
        return {"description": "The upstream's response"}
    if is_stream:
        return _content(content_type or JSON_LINES, {"type": "string"}, "A stream")
    if content_type is not None and not is_json(content_type):
        is_text = content_type.startswith("text/")
        return _content(content_type, {"type": "string"} if is_text else {"type": "string", "format": "binary"})
    if hint is None or not _has_schema(hint):
        return _content(content_type or JSON, {}) if hint is not None or content_type else {}
    if hint is bytes:
        return _content(BINARY, {"type": "string", "format": "binary"})
    return {"model": hint}


def _content(content_type: str, schema: dict[str, Any], description: str = "Successful Response") -> dict[str, Any]:
    return {"description": description, "content": {content_type: {"schema": schema}}}


def _has_schema(hint: Any) -> bool:
    if hint is types.NoneType:
        return True
    try:
        TypeAdapter(hint).json_schema(mode="serialization")
    except (PydanticSchemaGenerationError, PydanticUserError):
        return False
    return True
