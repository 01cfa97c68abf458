"""Receive request bodies within limits: of size, of time, and of the memory that all of them take together."""

import asyncio
import zlib
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from chutes.exception import BadRequest, BodyTooLarge, ChutesError, QueueFull, UnsupportedMediaType, UploadTimeout

LINGER = 1.0
"""Seconds for which the rest of a rejected request is read, so that its sender receives the response."""
_SLOW_START = 5.0  # seconds before the minimum rate holds
_SHARE = 3.75  # times the largest body: what all of them may take together; with their buffers it is four times
_GZIP_WINDOW = 31  # zlib's number for a gzip header and the largest window


UPLOAD = "chutes.upload"
"""The scope's key for a request's `Upload`."""


class ClientDisconnected(Exception):
    """The client closed the connection before its request was complete."""


class Uploads:
    """The bodies that are being received, and those that are complete and wait for a slot.

    - `max_body_bytes`: the size of the largest one; all of them together may take 3.75 times as much.
    - `timeout`: seconds that the client may take for one.
    - `min_rate`: bytes per second that it must send on average, after the first five seconds.
    """

    def __init__(self, *, max_body_bytes: int, timeout: float, min_rate: float) -> None:
        self.max_held = int(_SHARE * max_body_bytes)
        self.timeout = timeout
        self.min_rate = min_rate
        self.held = 0
        self.open: set[Upload] = set()
        self.closed: ChutesError | None = None

    def close(self, error: ChutesError) -> None:
        """Raise this error wherever a body is being received, now and from now on."""
        self.closed = error
        for upload in list(self.open):
            upload.abort(error)


class Upload:
    """One request's body, of at most `limit` bytes. Call `release` when its bytes are no longer held.

    `announced` says whether the request has a body at all, `length` is its Content-Length, or 0.
    """

    def __init__(self, uploads: Uploads, receive: Receive, *, announced: bool, length: int, limit: int) -> None:
        self._uploads = uploads
        self._receive = receive
        self._limit = limit
        self.complete = False
        self._received = 0
        self._held = 0
        self._kept = False
        self._waited = 0.0
        self._error: ChutesError | None = None
        self._task: asyncio.Task[object] | None = None  # that waits in `receive`
        if announced:  # else the handler may run without ever receiving the end of nothing
            uploads.open.add(self)
            self._error = uploads.closed
        if length > limit:
            self._error = _too_large(limit)

    async def receive(self) -> Message:
        """Receive an ASGI message. Raise BodyTooLarge, UploadTimeout, QueueFull, or what `abort` was given."""
        if self.complete:  # only a disconnect can follow
            return await self._receive()
        if self._error is not None:
            raise self._error
        # What `asyncio.timeout` does, with less around it: this runs for every request.
        self._task = task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a server calls it from one
        loop = task.get_loop()
        began = loop.time()
        at_min_rate = max(_SLOW_START, self._received / self._uploads.min_rate)
        allowed = min(self._uploads.timeout, at_min_rate)
        timer = loop.call_at(began + allowed - self._waited, self._expire, at_min_rate < self._uploads.timeout)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._error is None or task.uncancel():
                raise
            raise self._error from None
        finally:
            self._task = None
            timer.cancel()
            self._waited += loop.time() - began  # without the time that the application takes between two messages
        size = len(message.get("body", b""))
        self._received += size
        if self._received > self._limit:
            self._error = _too_large(self._limit)
            raise self._error
        self.hold(size)
        if not message.get("more_body", False):
            self.complete = True
            self._uploads.open.discard(self)
        return message

    def _expire(self, slow: bool) -> None:
        too_slow = f"The body arrives at less than {self._uploads.min_rate:g} bytes per second"
        too_late = f"The body did not arrive within {self._uploads.timeout:g} seconds"
        self.abort(UploadTimeout(too_slow if slow else too_late, headers={"Connection": "close"}))

    def hold(self, size: int) -> None:
        """Count so many more bytes that are held for this body. Raise QueueFull if that is too much for all of them."""
        self._held += size
        self._uploads.held += size
        if self._uploads.held > self._uploads.max_held:
            self._error = QueueFull(
                "Too many request bodies are being received, try again later",
                headers={"Retry-After": "1", "Connection": "close"},
            )
            raise self._error

    def abort(self, error: ChutesError) -> None:
        """Raise this error in `receive`, now or when it is called next; do nothing once the body is complete."""
        if self.complete or self._error is not None:
            return
        self._error = error
        if self._task is not None:
            self._task.cancel()

    def keep(self) -> Callable[[], None]:
        """Leave it to the caller to say when the body's bytes are no longer held, by calling what is returned."""
        self._kept = True
        return self._release

    def release(self) -> None:
        """Say that the body's bytes are no longer held, unless somebody else keeps them."""
        if not self._kept:
            self._release()

    def _release(self) -> None:
        self._uploads.held -= self._held
        self._held = 0
        self._uploads.open.discard(self)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit} bytes", headers={"Connection": "close"})


async def read_body(receive: Receive) -> bytes:
    """Return the whole body. Raise ClientDisconnected, and what `receive` raises."""
    message = await receive()
    body = message.get("body", b"")
    parts = bytearray() if message.get("more_body", False) else None
    while message["type"] != "http.disconnect":
        if parts is None:
            return bytes(body)
        parts += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(parts)
        message = await receive()
    raise ClientDisconnected


def check_encoding(encoding: str) -> bool:
    """Return whether a body has to be decompressed. Raise UnsupportedMediaType if it has another encoding than gzip."""
    if encoding in {"", "identity"}:
        return False
    if encoding in {"gzip", "x-gzip"}:
        return True
    raise UnsupportedMediaType(
        f"Content-Encoding {encoding[:100]!r} is not supported: send the body with gzip, or as it is",
        headers={"Accept-Encoding": "gzip"},
    )


def gunzip(body: bytes, limit: int) -> bytes:
    """Decompress a gzip body. Raise BodyTooLarge beyond the limit, BadRequest if it is not gzip."""
    decompress = zlib.decompressobj(_GZIP_WINDOW)
    try:
        decoded = decompress.decompress(body, limit + 1)
    except zlib.error:
        decoded = b""
    if len(decoded) > limit:
        raise _too_large(limit)
    if not decompress.eof or decompress.unused_data:
        raise BadRequest("The body is not what its Content-Encoding says: gzip")
    return decoded


async def respond_and_drain(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a client that is still sending.

    Closing a socket with unread bytes resets the connection, and the client loses the answer. The answer is therefore
    sent first, then incoming bytes are discarded for a second, and only then does the response end.
    """

    async def hold_open(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await response(scope, receive, hold_open)
    try:
        async with asyncio.timeout(LINGER):
            message = await receive()
            while message["type"] == "http.request" and message.get("more_body", False):
                message = await receive()
    except (TimeoutError, ChutesError):
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
