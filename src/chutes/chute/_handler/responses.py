"""The response that a handler's result becomes."""

import inspect
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

from chutes.chute._handler.encoding import to_json
from chutes.chute._handler.stream import BINARY, run_background, stream_items, stream_response
from chutes.chute._loop.author_loop import AuthorLoop

JSON = "application/json"

_BYTES = (bytes, bytearray, memoryview)


async def to_response(result: Any, content_type: str | None, loop: AuthorLoop, *, stream: bool = False) -> Response:
    """Return the response for a handler's result.

    Args:
        result: What the handler returned, or the generator that it is.
        content_type: The content type of bytes, text and streams. A `Response` keeps its own.
        loop: The author's event loop, which produces streams and runs background tasks.
        stream: Whether to stream any iterable, not only a generator.
    """
    if isinstance(result, Response):
        run_background(result, loop)
        return await stream_response(result, loop) if isinstance(result, StreamingResponse) else result
    if _is_stream(result, any_iterable=stream):
        return await stream_items(result, content_type, loop)
    if isinstance(result, _BYTES):
        return Response(bytes(result), media_type=content_type or BINARY)
    if isinstance(result, str) and content_type is not None:
        return Response(result, media_type=content_type)
    return Response(to_json(result), media_type=content_type if is_json(content_type) else JSON)


def is_json(content_type: str | None) -> bool:
    """Return whether a content type is a kind of JSON."""
    return content_type is not None and content_type.partition(";")[0].strip().endswith(("/json", "+json"))


def _is_stream(result: Any, *, any_iterable: bool) -> bool:
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return True
    is_one_value = isinstance(result, (str, *_BYTES, Mapping)) or hasattr(result, "model_dump")  # a model is iterable
    return any_iterable and isinstance(result, (AsyncIterable, Iterable)) and not is_one_value
