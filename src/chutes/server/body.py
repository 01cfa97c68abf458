"""Request bodies: how much is read, and for how long."""

import asyncio
from typing import NoReturn

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
