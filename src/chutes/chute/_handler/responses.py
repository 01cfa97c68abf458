"""From what a handler gave to what is sent: one answer, or a stream of pieces.

A stream's first piece is awaited before the headers go out, so that an early failure still has a status. One that
fails later is cut off, so that it cannot be taken for a complete one; server-sent events say so in an event of
their own.
"""

import inspect
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from typing import Any

from fastapi.encoders import jsonable_encoder
from pydantic_core import to_json as _to_json
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from chutes.chute._loop.user_loop import UserLoop
from chutes.exception import ChutesError

Pieces = AsyncGenerator[Any, None]

log = logging.getLogger(__name__)

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
SSE = "text/event-stream"
_BINARY = "application/octet-stream"
_TEXT = "text/plain"

_SSE_EVENT = re.compile(r"(data|event|id|retry)?:.*\n", re.DOTALL)
_LINE_END = re.compile(r"\r\n|\r|\n")
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx would hold a stream back otherwise
_NOTHING = object()


def to_json(value: Any) -> bytes:
    """JSON of models, dataclasses, dates, arrays and what else FastAPI can encode; NaN and infinities become null."""
    return _to_json(value, by_alias=True, inf_nan_mode="null", fallback=_fallback)


def _fallback(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numbers and arrays of numpy and torch
        return value.tolist()
    return jsonable_encoder(value)


async def to_response(result: Any, content_type: str | None, loop: UserLoop, *, stream: bool = False) -> Response:
    """The answer for what a handler returned, or for the generator it is.

    `content_type` is applied to bytes, text and streams; a `Response` keeps its own. `stream` lets any iterable be one.
    """
    if isinstance(result, Response):
        return await _own_response(result, loop)
    if _is_stream(result, anything=stream):
        return await _stream(result, content_type, loop)
    if isinstance(result, (bytes, bytearray, memoryview)):
        return Response(bytes(result), media_type=content_type or _BINARY)
    if isinstance(result, str) and content_type is not None:
        return Response(result, media_type=content_type)
    return Response(to_json(result), media_type=content_type if is_json(content_type) else JSON)


def is_json(content_type: str | None) -> bool:
    """Whether this content type is JSON's."""
    return content_type is not None and content_type.partition(";")[0].strip().endswith(("/json", "+json"))


def _is_stream(result: Any, *, anything: bool) -> bool:
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return True
    whole = (str, bytes, bytearray, memoryview, Mapping)
    return anything and isinstance(result, (AsyncIterable, Iterable)) and not _is_object(result, whole)


def _is_object(result: Any, whole: tuple[type, ...]) -> bool:
    return isinstance(result, whole) or hasattr(result, "model_dump")  # a model iterates over its fields


async def _own_response(response: Response, loop: UserLoop) -> Response:
    """The author's response, with what it does later (its stream, its background task) done on the author's loop."""
    if (background := response.background) is not None:
        response.background = BackgroundTask(loop.run, background)
    if not isinstance(response, StreamingResponse):
        return response
    items = loop.stream(response.body_iterator)
    first = await anext(items, _NOTHING)
    kind = type(response)
    if kind.__call__ is not StreamingResponse.__call__ or kind.stream_response is not StreamingResponse.stream_response:
        response.body_iterator = _pieces(first, items)
        return response
    answer = _Stream(_pieces(first, items), items, response.status_code, background=response.background)
    answer.raw_headers = response.raw_headers
    return answer


async def _stream(result: Any, content_type: str | None, loop: UserLoop) -> Response:
    items = loop.stream(result)
    first = await anext(items, _NOTHING)
    content_type = content_type or _guess(first)
    if content_type.startswith(SSE):
        return _Stream(_events(first, items), items, media_type=content_type, headers=_UNBUFFERED)
    return _Stream(_lines(first, items), items, media_type=content_type, headers=_UNBUFFERED)


def _guess(first: Any) -> str:
    """The content type of a stream whose author named none."""
    if isinstance(first, (bytes, bytearray, memoryview)):
        return _BINARY
    if isinstance(first, str):
        return SSE if _SSE_EVENT.fullmatch(first) else _TEXT
    return _TEXT if first is _NOTHING else JSON_LINES


class _Stream(StreamingResponse):
    """A stream that closes its source whichever way it ends."""

    def __init__(self, pieces: Pieces, source: Pieces, status_code: int = 200, **options: Any) -> None:
        super().__init__(pieces, status_code, **options)
        self._source = source

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            await self._source.aclose()


async def _pieces(first: Any, items: Pieces) -> Pieces:
    if first is not _NOTHING:
        yield first
    async for item in items:
        yield item


async def _lines(first: Any, items: Pieces) -> Pieces:
    """Bytes and text as they are, anything else as one line of JSON each."""
    async for item in _pieces(first, items):
        if isinstance(item, (bytes, bytearray, memoryview)):
            yield bytes(item)
        else:
            yield item.encode() if isinstance(item, str) else to_json(item) + b"\n"


async def _events(first: Any, items: Pieces) -> Pieces:
    """Server-sent events: what is one already as it is, anything else as one event's data."""
    try:
        async for item in _pieces(first, items):
            yield _event(item)
    except Exception as error:
        log.exception("A stream failed after it had begun")
        detail: Any = "Internal server error"
        if isinstance(error, HTTPException):
            detail = error.detail
        elif isinstance(error, ChutesError):
            detail = str(error)
        yield b"event: error\ndata: " + json.dumps({"detail": detail}).encode() + b"\n\n"


def _event(item: Any) -> bytes:
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    if isinstance(item, str) and _SSE_EVENT.fullmatch(item):
        return item.encode()
    text = item if isinstance(item, str) else to_json(item).decode()
    return "".join(f"data: {line}\n" for line in _LINE_END.split(text)).encode() + b"\n"
