"""Receive request bodies within limits on their size, on their duration, and on the memory of all bodies together."""

import asyncio
import zlib
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from chutes.exception import BadRequest, BodyTooLarge, ChutesError, QueueFull, UnsupportedMediaType, UploadTimeout

LINGER = 1.0
"""Seconds for which the rest of a rejected request is read, so that its sender receives the response."""
_SLOW_START = 5.0  # seconds before the minimum rate applies
_POOL_FACTOR = 3.75  # times `max_body_bytes`: the memory for all bodies; with buffers it is four times as much
_GZIP_WINDOW = 31  # zlib's code for a gzip header and the largest window

UPLOAD = "chutes.upload"
"""Key of the ASGI scope for the request's `Upload`."""


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete or answered."""


class Uploads:
    """The limits on request bodies, and the memory that the bodies of all requests take.

    The body of a cord counts until its handler starts, that of a job until the job ends, and others until the response
    is complete.

    - `max_body_bytes`: the limit for one body; all bodies together may take 3.75 times as much.
    - `timeout`: seconds that a client may take to send one.
    - `min_rate`: bytes per second that a client must send on average, after the first five seconds.
    """

    def __init__(self, *, max_body_bytes: int, timeout: float, min_rate: float) -> None:
        self.max_held = int(_POOL_FACTOR * max_body_bytes)
        self.timeout = timeout
        self.min_rate = min_rate
        self.held = 0
        self.incomplete: set[Upload] = set()
        self.closed: ChutesError | None = None

    def close(self, error: ChutesError) -> None:
        """Raise this error in every upload that is not complete, now and from now on."""
        self.closed = error
        for upload in list(self.incomplete):
            upload.abort(error)


class Upload:
    """The body of one request. Call `release` when its bytes no longer count as memory of `Uploads`.

    `length` is the Content-Length or 0, and `limit` is the largest size, both in bytes.
    """

    def __init__(self, uploads: Uploads, receive: Receive, *, has_body: bool, length: int, limit: int) -> None:
        self._uploads = uploads
        self._receive = receive
        self._limit = limit
        self.complete = False
        self._received = 0
        self._held = 0
        self._transferred = False
        self._waited = 0.0
        self._error: ChutesError | None = None
        self._task: asyncio.Task[object] | None = None  # waits in `receive`
        if has_body:  # a handler may never receive the end of a body that does not exist
            uploads.incomplete.add(self)
            self._error = uploads.closed
        if length > limit:
            self._error = _too_large(limit)

    async def receive(self) -> Message:
        """Receive an ASGI message. Raise BodyTooLarge, UploadTimeout, QueueFull, or the error given to `abort`."""
        if self.complete:  # only a disconnect can follow
            return await self._receive()
        if self._error is not None:
            raise self._error
        # Like `asyncio.timeout`, but cheaper, because this runs for every request.
        self._task = task = asyncio.current_task()
        assert task is not None  # noqa: S101 - servers call applications in a task
        loop = task.get_loop()
        called_at = loop.time()
        at_min_rate = max(_SLOW_START, self._received / self._uploads.min_rate)
        allowed = min(self._uploads.timeout, at_min_rate)
        timer = loop.call_at(called_at + allowed - self._waited, self._expire, at_min_rate < self._uploads.timeout)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._error is None or task.uncancel():
                raise
            raise self._error from None
        finally:
            self._task = None
            timer.cancel()
            self._waited += loop.time() - called_at  # excludes the application's time between two messages
        size = len(message.get("body", b""))
        self._received += size
        if self._received > self._limit:
            self._error = _too_large(self._limit)
            raise self._error
        self.hold(size)
        if not message.get("more_body", False):
            self.complete = True
            self._uploads.incomplete.discard(self)
        return message

    def _expire(self, slow: bool) -> None:
        too_slow = f"The request body arrived at less than {self._uploads.min_rate:g} bytes per second."
        too_late = f"The request body did not arrive within {self._uploads.timeout:g} seconds."
        self.abort(UploadTimeout(too_slow if slow else too_late, headers={"Connection": "close"}))

    def hold(self, size: int) -> None:
        """Count `size` more bytes in memory for this body. Raise QueueFull if all bodies together take too much."""
        self._held += size
        self._uploads.held += size
        if self._uploads.held > self._uploads.max_held:
            self._error = QueueFull(
                "Too many request bodies are being received. Try again later.",
                headers={"Retry-After": "1", "Connection": "close"},
            )
            raise self._error

    def abort(self, error: ChutesError) -> None:
        """Raise this error in the current or next call of `receive`. Do nothing if the body is complete."""
        if self.complete or self._error is not None:
            return
        self._error = error
        if self._task is not None:
            self._task.cancel()

    def transfer(self) -> Callable[[], None]:
        """Return the function that releases the bytes from now on, and make `release` do nothing.

        The caller keeps the body after the request has ended.
        """
        self._transferred = True
        return self._release

    def release(self) -> None:
        """Stop counting the body's bytes. Do nothing after `transfer`."""
        if not self._transferred:
            self._release()

    def _release(self) -> None:
        self._uploads.held -= self._held
        self._held = 0
        self._uploads.incomplete.discard(self)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than {limit} bytes.", headers={"Connection": "close"})


async def read_body(receive: Receive) -> bytes:
    """Return the whole body. Raise ClientDisconnected, or an error of `receive`."""
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
    """Return whether a body is compressed with gzip. Raise UnsupportedMediaType for another encoding."""
    if encoding in {"", "identity"}:
        return False
    if encoding in {"gzip", "x-gzip"}:
        return True
    raise UnsupportedMediaType(
        f"Content-Encoding {encoding[:100]!r} is not supported. Send the body uncompressed or with gzip.",
        headers={"Accept-Encoding": "gzip"},
    )


def gunzip(body: bytes, limit: int) -> bytes:
    """Decompress a gzip body. Raise BodyTooLarge beyond the limit, and BadRequest if it is not gzip."""
    decompress = zlib.decompressobj(_GZIP_WINDOW)
    try:
        decoded = decompress.decompress(body, limit + 1)
    except zlib.error:
        decoded = b""
    if len(decoded) > limit:
        raise _too_large(limit)
    if not decompress.eof or decompress.unused_data:
        raise BadRequest("The request body is not valid gzip, although its Content-Encoding is gzip.")
    return decoded


async def respond_and_drain(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response to a client that is still sending its request.

    Closing a socket with unread bytes resets the connection, and the client loses the response. Therefore the response
    is sent first, incoming bytes are discarded for a second, and only then does the response end.
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
