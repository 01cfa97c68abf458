"""Request bodies: how much is read, for how long, and what JSON is."""

import asyncio
import json
import math
from typing import Any, NoReturn

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from chutes.exception import BodyTooLarge, UploadTimeout

_LINGER = 1.0  # seconds that a refused upload is still read, so that its sender gets to see the answer


class ClientLeft(Exception):
    """The client closed the connection before its request was complete."""


def check_length(scope: Scope, limit: int) -> None:
    """Refuse a body from its Content-Length, before anything of it is read."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            if int(value) > limit:
                _too_large(limit)
            return


async def read_rest(receive: Receive, first: bytes, limit: int, within: float) -> bytes:
    """The whole body, of which `first` has come. BodyTooLarge, UploadTimeout, ClientLeft."""
    body = bytearray(first)
    try:
        async with asyncio.timeout(within):
            more = True
            while more:
                if len(body) > limit:
                    _too_large(limit)
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        why = f"The body did not arrive within {within:g} seconds"
        raise UploadTimeout(why, headers={"Connection": "close"}) from None
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
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def json_fault(body: bytes) -> dict[str, Any] | None:
    """What Python's parser lets pass although it is not JSON: NaN, Infinity, half a surrogate pair, no UTF-8.

    As a validation error, which says where it is.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return _fault((), "The body is not UTF-8")
    if not any(sign in body for sign in (b"NaN", b"Infinity", b"\\ud", b"\\uD")):
        return None
    try:
        pending: list[tuple[tuple[str | int, ...], Any]] = [((), json.loads(body))]
    except (ValueError, RecursionError):
        return None  # broken in another way, which whoever parses it next will say better
    while pending:
        where, value = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return _fault(where, "Input should be a finite number: NaN and Infinity are not JSON")
        if isinstance(value, str) and not _is_text(value):
            return _fault(where, "Input should be text: half of a surrogate pair is none")
        if isinstance(value, list):
            pending += (((*where, index), item) for index, item in enumerate(value))
        elif isinstance(value, dict):
            pending += (((*where, key), item) for key, item in value.items())
            pending += ((where, key) for key in value)
    return None


def _fault(where: tuple[str | int, ...], message: str) -> dict[str, Any]:
    return {"type": "json_invalid", "loc": ("body", *where), "msg": message}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
