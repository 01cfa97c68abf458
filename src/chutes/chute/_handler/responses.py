"""Conversion of a handler's result into a response."""

import inspect
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

from chutes.chute._handler.encoding import BYTES_TYPES, to_json
from chutes.chute._handler.media import BINARY, JSON, is_json
from chutes.chute._handler.stream import run_background, stream_items, stream_response
from chutes.chute._loop.author_loop import AuthorLoop


async def to_response(result: Any, content_type: str | None, loop: AuthorLoop, *, stream: bool = False) -> Response:
    """Return the response for a handler's result.

    Args:
        result: The handler's return value, or the generator if the handler is a generator function.
        content_type: The content type of bytes, text and streams. A `Response` has a content type of its own.
        loop: The author's event loop, which produces streams and runs background tasks.
        stream: Whether to stream any iterable, not only a generator.
    """
    if isinstance(result, Response):
        run_background(result, loop)
        return await stream_response(result, loop) if isinstance(result, StreamingResponse) else result
    if _is_stream(result, any_iterable=stream):
        return await stream_items(result, content_type, loop)
    if isinstance(result, BYTES_TYPES):
        return Response(bytes(result), media_type=content_type or BINARY)
    if isinstance(result, str) and content_type is not None:
        return Response(result, media_type=content_type)
    return Response(to_json(result), media_type=content_type if content_type and is_json(content_type) else JSON)


def _is_stream(result: Any, *, any_iterable: bool) -> bool:
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return True
    # Text, bytes, mappings and models are iterable, but each is one value.
    is_one_value = isinstance(result, (str, *BYTES_TYPES, Mapping)) or hasattr(result, "model_dump")
    return any_iterable and isinstance(result, (AsyncIterable, Iterable)) and not is_one_value
