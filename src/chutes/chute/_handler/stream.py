"""Streamed responses: bytes, text, JSON lines or server-sent events.

The first item is awaited before the headers are sent, so an early error still sets the status. After a later error the
response ends incomplete, which clients detect; a stream of server-sent events ends with an `error` event instead.
"""

import json
import logging
import re
from collections.abc import AsyncGenerator
from typing import Any

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from chutes.chute._handler.encoding import BYTES_TYPES, to_json
from chutes.chute._handler.media import BINARY, JSON_LINES, SSE, TEXT
from chutes.chute._loop.author_loop import AuthorLoop
from chutes.exception import ChutesError

log = logging.getLogger(__name__)

_Items = AsyncGenerator[Any, None]

_SSE_EVENT = re.compile(r"(data|event|id|retry)?:.*\n", re.DOTALL)
_LINE_END = re.compile(r"\r\n|\r|\n")
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # otherwise nginx buffers the stream
_NO_ITEM = object()  # the first item of an empty stream


async def stream_items(items: Any, content_type: str | None, loop: AuthorLoop) -> Response:
    """Stream the items of a generator or iterable. Without a content type, derive it from the first item."""
    source = loop.stream(items)
    first = await anext(source, _NO_ITEM)
    content_type = content_type or _guess_content_type(first)
    encode = _events if content_type.startswith(SSE) else _lines
    return _ClosingStream(encode(first, source), source, media_type=content_type, headers=_UNBUFFERED)


async def stream_response(response: StreamingResponse, loop: AuthorLoop) -> Response:
    """Return a streaming response whose body the author's event loop produces."""
    source = loop.stream(response.body_iterator)
    first = await anext(source, _NO_ITEM)
    kind = type(response)
    if kind.__call__ is not StreamingResponse.__call__ or kind.stream_response is not StreamingResponse.stream_response:
        response.body_iterator = _prepend(first, source)
        return response
    stream = _ClosingStream(_prepend(first, source), source, response.status_code, background=response.background)
    stream.raw_headers = response.raw_headers
    return stream


def run_background(response: Response, loop: AuthorLoop) -> None:
    """Move the response's background task to the author's event loop."""
    if (background := response.background) is not None:
        response.background = BackgroundTask(loop.run, background)


class _ClosingStream(StreamingResponse):
    """A streaming response that closes its source at its end, on an error or when the client disconnects."""

    def __init__(self, content: _Items, source: _Items, status_code: int = 200, **options: Any) -> None:
        super().__init__(content, status_code, **options)
        self._source = source

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            await self._source.aclose()


def _guess_content_type(first: Any) -> str:
    if isinstance(first, BYTES_TYPES):
        return BINARY
    if isinstance(first, str):
        return SSE if _SSE_EVENT.fullmatch(first) else TEXT
    return TEXT if first is _NO_ITEM else JSON_LINES


async def _prepend(first: Any, items: _Items) -> _Items:
    if first is not _NO_ITEM:
        yield first
    async for item in items:
        yield item


async def _lines(first: Any, items: _Items) -> _Items:
    """Yield bytes and text unchanged, and anything else as one line of JSON."""
    async for item in _prepend(first, items):
        if isinstance(item, BYTES_TYPES):
            yield bytes(item)
        else:
            yield item.encode() if isinstance(item, str) else to_json(item) + b"\n"


async def _events(first: Any, items: _Items) -> _Items:
    """Yield server-sent events unchanged, and anything else as the data of one event."""
    try:
        async for item in _prepend(first, items):
            yield _event(item)
    except Exception as error:
        log.exception("A stream failed after its first item")
        detail: Any = "Internal server error"
        if isinstance(error, HTTPException):
            detail = error.detail
        elif isinstance(error, ChutesError):
            detail = str(error)
        yield b"event: error\ndata: " + json.dumps({"detail": detail}).encode() + b"\n\n"


def _event(item: Any) -> bytes:
    if isinstance(item, BYTES_TYPES):
        return bytes(item)
    if isinstance(item, str) and _SSE_EVENT.fullmatch(item):
        return item.encode()
    text = item if isinstance(item, str) else to_json(item).decode()
    return "".join(f"data: {line}\n" for line in _LINE_END.split(text)).encode() + b"\n"
