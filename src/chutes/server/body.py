"""Request bodies: how much is read, for how long, and what JSON is."""

import asyncio
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from chutes.exception import BodyTooLarge, UploadTimeout

_LINGER = 1.0  # seconds that a refused upload is still read, so that its sender gets to see the answer

_LONG = 1 << 16  # bytes
_ODD_NUMBERS = (b"NaN", b"Infinity")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)

_HALF = "Input should be text: half of a surrogate pair is none"


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


def check_length(scope: Scope, limit: int) -> None:
    """Refuse a body from its Content-Length, before anything of it is read."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            if int(value) > limit:
                _too_large(limit)
            return


def in_time(receive: Receive, within: float) -> Receive:
    """A `receive` that raises UploadTimeout unless the whole body came `within` so many seconds from now."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    complete = False

    async def receive_in_time() -> Message:
        nonlocal complete
        if complete:  # now it waits for the client to leave
            return await receive()
        # What `asyncio.timeout` does, with less around it: this is on every request's way.
        task, late = asyncio.current_task(), False
        assert task is not None  # noqa: S101 - a server calls it from one

        def expire() -> None:
            nonlocal late
            late = True
            task.cancel()

        timer = loop.call_at(deadline, expire)
        try:
            message = await receive()
        except asyncio.CancelledError:
            if not late or task.uncancel():
                raise
            why = f"The body did not arrive within {within:g} seconds"
            raise UploadTimeout(why, headers={"Connection": "close"}) from None
        finally:
            timer.cancel()
        complete = not message.get("more_body", False)
        return message

    return receive_in_time


async def read_rest(receive: Receive, first: bytes, limit: int) -> bytes:
    """The whole body, of which `first` has come. BodyTooLarge, ClientLeft, and what `receive` raises."""
    body = bytearray(first)
    more = True
    while more:
        if len(body) > limit:
            _too_large(limit)
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if len(body) > limit:
        _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> NoReturn:
    raise BodyTooLarge(f"The body is larger than {limit} bytes", headers={"Connection": "close"})


async def refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a client that is still sending.

    Closing with unread bytes in the socket resets the connection, and the answer is lost with it. So the answer goes
    out, what comes is thrown away for a moment, then the connection is closed.
    """

    async def hold_open(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await response(scope, receive, hold_open)
    try:
        async with asyncio.timeout(_LINGER):
            message = await receive()
            while message["type"] == "http.request" and message.get("more_body", False):
                message = await receive()
    except (TimeoutError, UploadTimeout):
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def json_fault(body: bytes) -> dict[str, Any] | None:
    """What Python's parser lets pass although it is not JSON: NaN, Infinity, half a surrogate pair, no UTF-8.

    As a validation error, which says where it is. What is long is looked through in a thread: the loop has others to
    answer meanwhile.
    """
    return _json_fault(body) if len(body) < _LONG else await asyncio.to_thread(_json_fault, body)


def _json_fault(body: bytes) -> dict[str, Any] | None:
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return _fault(["body"], "The body is not UTF-8")
    if b"\\ud" in body or b"\\uD" in body or _has_odd_number(body):
        return search(body)
    return None


def _has_odd_number(body: bytes) -> bool:
    """Whether NaN or Infinity stands outside of strings; inside they are words."""
    if not any(number in body for number in _ODD_NUMBERS):
        return False
    bare = _STRING.sub(b"", body)
    return any(number in bare for number in _ODD_NUMBERS)


def search(body: bytes) -> dict[str, Any] | None:
    """Look at every value; also for the number that has too many digits for Python to read it."""
    try:
        read = json.loads(body, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return None  # broken in another way, which whoever parses it next will say better
    # One iterator for each list and object that is open, so that even a million values take no memory here.
    pending: list[Iterator[tuple[str | int, Any]]] = [iter([("body", read)])]
    within: list[str | int] = []  # the keys of those that are open
    while pending:
        if (item := next(pending[-1], None)) is None:
            pending.pop()
            del within[-1:]
            continue
        key, value = item
        if isinstance(key, str) and not _is_text(key):
            return _fault(within, _HALF)
        if isinstance(value, str) and not _is_text(value):
            return _fault([*within, key], _HALF)
        if isinstance(value, float) and not math.isfinite(value):
            return _fault([*within, key], "Input should be a number: not NaN, not infinite, nor of thousands of digits")
        if isinstance(value, (list, dict)):
            pending.append(enumerate(value) if isinstance(value, list) else iter(value.items()))
            within.append(key)
    return None


def _whole_number(digits: str) -> float:
    limit = sys.get_int_max_str_digits()
    return int(digits) if not limit or len(digits) <= limit else math.inf


def _fault(where: Iterable[str | int], message: str) -> dict[str, Any]:
    return {"type": "json_invalid", "loc": tuple(where), "msg": message}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
