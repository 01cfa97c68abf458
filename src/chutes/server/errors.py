"""Error responses.

Under `/v1` they have the form of OpenAI's API, `{"error": {"message", "type", "code", "param"}}`, elsewhere
`{"detail": ...}`. A message is either that of an exception meant for clients or a fixed text. It never contains a
traceback, a path or an internal name.
"""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from chutes.chute import Chute
from chutes.chute._handler.signature import MAX_ERRORS
from chutes.exception import ChutesError, Fatal
from chutes.server.forms import FORMS
from chutes.server.logs import request_id

_MAX_SHOWN = 200  # characters of a value or a path that are sent back
_MAX_PARTS = 200  # of a value that is encoded to see whether it is short

# Codes of errors that have no code of their own, by status
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "body_too_large",
    415: "unsupported_media_type",
    422: "validation_error",
    429: "queue_full",
    500: "internal_error",
    502: "upstream_unavailable",
    503: "unavailable",
    504: "timeout",
}

# OpenAI's types of errors, by status
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def _has_openai_form(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def error_response(
    path: str,
    status: int,
    detail: Any,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error response in the form that clients of this path expect."""
    if status in {204, 304} or status < 200:
        return Response(status_code=status, headers=dict(headers or {}))
    body: dict[str, Any] = {"detail": detail}
    if _has_openai_form(path):
        message = detail if isinstance(detail, str) else json.dumps(json_safe(detail))
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        body = {"error": {"message": message, "type": kind, "code": code or _CODES.get(status), "param": param}}
    elif code is not None:
        body["code"] = code
    text = json.dumps(json_safe(body), separators=(",", ":"))
    return Response(text, status, headers=dict(headers or {}), media_type="application/json")


def from_chutes_error(path: str, error: ChutesError) -> Response:
    """Return the response for an exception of this package."""
    return error_response(path, error.status, str(error), code=error.code, headers=error.headers)


def internal_error(path: str) -> Response:
    """Return the response for an unhandled exception. Its request id identifies the traceback in the log."""
    current = request_id.get()
    hint = f" (request {current})" if current else ""
    return error_response(path, 500, f"Internal server error{hint}.", code="internal_error")


def from_validation(path: str, errors: Sequence[Any]) -> Response:
    """Return a 422 that lists at most `MAX_ERRORS` invalid fields and shortens long values."""
    fields = [_to_json(error) for error in errors[:MAX_ERRORS]]
    if not _has_openai_form(path):
        return error_response(path, 422, fields)
    first = fields[0] if fields else {"loc": [], "msg": "Invalid request."}
    location = first["loc"][1:]
    if first.get("type") == "json_invalid" and len(location) == 1 and isinstance(location[0], int):
        location = []  # a position in the text, not a parameter
    param = ".".join(str(part) for part in location) or None
    message = f"{param}: {first['msg']}" if param else first["msg"]
    return error_response(path, 422, message, code="validation_error", param=param)


def _to_json(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return one of pydantic's errors as it is sent to clients, without internal names and long values."""
    field = {
        "type": error.get("type"),
        "loc": [_shorten(part) for part in error.get("loc", ())],
        "msg": _shorten(error.get("msg")),
    }
    if "Expected UploadFile" in str(field["msg"]):  # FastAPI's message, which names a class
        return field | {"msg": "Input should be a file"}
    if "input" in error:
        field["input"] = _shorten(error["input"])
    if error.get("ctx"):
        field["ctx"] = {key: _shorten(value) for key, value in error["ctx"].items()}
    return field


def _shorten(value: Any) -> Any:
    """Return a small value unchanged. Return the beginning of a long one, or its type if it has many parts."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        return f"{len(value)} bytes"
    else:
        placeholder = f"a {type(value).__name__} that is too large to show"
        if _has_many_parts(value):
            return placeholder
        try:
            text = json.dumps(json_safe(value))
        except (ValueError, RecursionError):  # a number with too many digits, or nesting too deep
            return placeholder
        if len(text) <= _MAX_SHOWN:
            return value
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}… ({len(text)} characters)"


def _has_many_parts(value: Any) -> bool:
    """Return whether a value has more than `_MAX_PARTS` parts, without visiting all of them."""
    pending, count = [value], 1
    while pending:
        part = pending.pop()
        if isinstance(part, (Mapping, list, tuple, set, frozenset)):
            count += len(part)
            if count > _MAX_PARTS:
                return True
            pending.extend(part.values() if isinstance(part, Mapping) else part)
    return False


def json_safe(value: Any) -> Any:
    """Return the value with only JSON types: NaN and infinities become words, and other objects become text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate has no UTF-8
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {_key(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_safe(item) for item in value]
    return json_safe(str(value))


def _key(key: Any) -> str:
    return json.dumps(key) if key is None or isinstance(key, bool) else str(json_safe(key))


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    cause = error.__cause__
    if isinstance(cause, ChutesError):  # raised while FastAPI read the body
        return from_chutes_error(path, cause)
    is_form = request.headers.get("content-type", "").partition(";")[0].strip().lower() in FORMS
    if error.status_code == 400 and isinstance(cause, (ValueError, RecursionError)) and not is_form:
        # The body has no JSON media type, and FastAPI could not parse it. CordMiddleware has parsed a body with one.
        return from_validation(path, [{"type": "json_invalid", "loc": ("body",), "msg": "The body is not valid JSON"}])
    detail = error.detail
    if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"No route matches {path[:_MAX_SHOWN]}."
    if error.status_code == 405 and detail == HTTPStatus.METHOD_NOT_ALLOWED.phrase:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not allowed here." + (f" Use {allowed}." if allowed else "")
    return error_response(path, error.status_code, detail, headers=error.headers)


async def _on_validation_error(request: Request, error: RequestValidationError) -> Response:
    return from_validation(request.url.path, error.errors())


async def _on_chutes_error(request: Request, error: ChutesError) -> Response:
    if isinstance(error, Fatal) and isinstance(request.app, Chute) and request.app.failure is None:
        request.app.fail(str(error))
    return from_chutes_error(request.url.path, error)


async def _on_exception(request: Request, error: Exception) -> Response:
    return internal_error(request.url.path)


def install(app: FastAPI) -> None:
    """Answer an app's errors in this package's form, except for those that its author handles."""
    handlers: list[tuple[Any, Any, Any]] = [
        (HTTPException, http_exception_handler, _on_http_exception),
        (RequestValidationError, request_validation_exception_handler, _on_validation_error),
        (ChutesError, None, _on_chutes_error),
        (Exception, None, _on_exception),
    ]
    for kind, default, handler in handlers:
        if app.exception_handlers.get(kind) is default:
            app.add_exception_handler(kind, handler)
