"""uvicorn's HTTP/1.1 protocol with limits on the size of a request's head and on the time that clients take.

- The request line has at most 16 KiB (414). The headers have at most 64 KiB and number at most 100 (431). Both must
  arrive in time (408). The limits are checked as bytes arrive.
- An `Upgrade` header that the server does not support is ignored, as RFC 9110 (section 7.8) requires. httptools alone
  would drop the body of such a request and parse it as the next request.
- A connection whose client stops reading is closed.
"""

import asyncio
import fcntl
import logging
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import httptools
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from chutes.chute._handler.media import body_headers
from chutes.server.body import LINGER
from chutes.server.errors import error_response

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

log = logging.getLogger(__name__)

_MAX_REQUEST_LINE = 16 * 1024
_MAX_HEADER_BYTES = 64 * 1024
_MAX_HEADERS = 100
_MAX_PIPELINED = 64  # requests of one connection that wait for earlier ones
_MANY_EVENTS = 1000  # parser events after which other connections get a turn
_LOG_INTERVAL = 10.0  # seconds between log lines about invalid requests

_REJECTIONS = {  # status: code and message
    400: ("bad_request", "Invalid HTTP request."),
    408: ("request_timeout", "The request headers did not arrive in time."),
    414: ("uri_too_long", f"The request line is longer than {_MAX_REQUEST_LINE} bytes."),
    431: (
        "headers_too_large",
        f"The request has more than {_MAX_HEADERS} headers, or headers of more than {_MAX_HEADER_BYTES} bytes.",
    ),
}


class _RejectedError(Exception):
    """The request is rejected with the status in the argument. A callback raises it to stop the parser."""


class _InvalidRequestLog:
    """A log of invalid requests with at most one line every ten seconds, which counts the suppressed ones."""

    def __init__(self) -> None:
        self._next_line_at = 0.0
        self._suppressed = 0

    def write(self, status: int, client: tuple[str, int] | None) -> None:
        now = time.monotonic()
        if now < self._next_line_at:
            self._suppressed += 1
            return
        peer = f"{client[0]}:{client[1]}" if client else "an unknown peer"
        others = f" ({self._suppressed} more since the previous message)" if self._suppressed else ""
        log.warning("Rejected a request from %s%s: %s", peer, others, _REJECTIONS[status][1], extra={"status": status})
        self._next_line_at, self._suppressed = now + _LOG_INTERVAL, 0


_invalid_request_log = _InvalidRequestLog()


class HttpProtocol(HttpToolsProtocol):
    """One HTTP/1.1 connection. The server calls `close_if_stalled` about every second."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rejected = False
        self._in_head = False
        self._in_body = False
        self._url_bytes = 0
        self._head_bytes = 0
        self._events = 0  # number of parser events
        self._unparsed = 0  # bytes since the last parser event
        self._waiting_since = self.last_read_at = time.monotonic()  # `last_read_at`: when the client last read bytes
        self._unread_by_client = 0
        self._running: RequestResponseCycle | None = None  # `cycle` is the newest request, which may still wait

    # Callbacks of the parser

    @override
    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        self._in_head, self._in_body = True, False
        self._url_bytes = self._head_bytes = 0
        self._waiting_since = time.monotonic()
        super().on_message_begin()

    @override
    def on_url(self, url: bytes) -> None:
        self._events += 1
        self._url_bytes += len(url)
        if self._url_bytes > _MAX_REQUEST_LINE:
            raise _RejectedError(414)
        super().on_url(url)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        self._events += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > _MAX_HEADER_BYTES or (self._in_head and len(self.headers) >= _MAX_HEADERS):
            raise _RejectedError(431)
        if not self._in_head:  # a trailer, which is dropped
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        self.scope["method"] = self.parser.get_method().decode("ascii")
        if self._ignores_upgrade():
            return
        if len(self.pipeline) >= _MAX_PIPELINED:
            raise _RejectedError(400)
        self._in_body = True
        self._unset_keepalive_if_required()  # an earlier response may have set it since this head began
        super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        self._events += 1
        super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        self._in_body = False
        if not self._ignores_upgrade():
            super().on_message_complete()

    @override
    def _should_upgrade(self) -> bool:
        """Return whether the request opens a WebSocket, which needs a GET without a body (RFC 6455)."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.scope["method"] != "GET" or body_headers(self.headers).has_body:
            return False
        return super()._should_upgrade()

    def _ignores_upgrade(self) -> bool:
        """Return whether the client offers an upgrade that the server ignores."""
        return self.parser.should_upgrade() and not self._should_upgrade()

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # Callbacks of the transport

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None:
            _disconnect(self._running)
        self.pipeline.clear()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._rejected:
            return
        events = self._events
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._reject(cause.args[0] if isinstance(cause, _RejectedError) else 400)
            return
        if self._events - events > _MANY_EVENTS and not self.flow.read_paused:
            self.flow.pause_reading()  # uvloop would keep reading and starve other connections
            self.loop.call_soon(self._resume_reading)
        self._unparsed = self._unparsed + len(data) if events == self._events else 0
        if self._unparsed > _MAX_HEADER_BYTES:  # an endless header, trailer or chunk extension
            self._reject(431)

    def _resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        else:
            return
        if self._should_upgrade():
            self.handle_websocket_upgrade()
        elif self.scope["method"] == "CONNECT":
            self._reject(400)
        else:  # the parser has stopped at the upgrade: a new one parses the head again, without the upgrade
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self._feed(head + rest)

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version()
        lines = [b"%s %s HTTP/%s" % (self.scope["method"].encode(), self.url, version.encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token for token in value.split(b",") if token.strip().lower() != b"upgrade"]
                lines.append(b"connection: " + b",".join(tokens))
            elif name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def _reject(self, status: int) -> None:
        """Answer a request with an error, and close the connection."""
        self._rejected = True
        _invalid_request_log.write(status, self.client)
        if self._in_body and self.pipeline:  # the rejected request waits for earlier ones
            self.pipeline.popleft()
            self._in_body = False
        cycle = self.pipeline[0][0] if self.pipeline else self._running
        is_answered = cycle is None or cycle.response_complete
        if cycle is not None and not is_answered and not self._in_body:
            cycle.keep_alive = False  # uvicorn answers the earlier requests, then closes the connection
            return
        if cycle is None or is_answered or not cycle.response_started:
            path = self.url.decode("latin-1") if self.url else ""
            code, message = _REJECTIONS[status]
            response = error_response(path, status, message, code=code, headers={"Connection": "close"})
            fields = [b"%s: %s\r\n" % field for field in response.raw_headers]
            self.transport.write(b"".join([STATUS_LINE[status], *fields, b"\r\n", bytes(response.body)]))
            if self.transport.can_write_eof():
                self.transport.write_eof()
        if cycle is not None:
            _disconnect(cycle)
        # Closing with unread bytes would reset the connection, and the client would lose the response.
        self.loop.call_later(LINGER, self.transport.close)

    @property
    def busy(self) -> bool:
        """Whether the application is answering a request of this connection."""
        return self._running is not None and not self._running.response_complete

    @property
    def unread(self) -> int:
        """Number of response bytes in this process that the client has not read."""
        return self.transport.get_write_buffer_size()

    def close_if_stalled(self, now: float, header_timeout: float, send_timeout: float) -> None:
        """Close the connection if the client is late with the head of a request, or has stopped reading.

        `now` is a monotonic time, and the timeouts are in seconds.
        """
        unread = self.unread
        if unread:
            unread += _unacknowledged_bytes(self.transport)
        if unread != self._unread_by_client or not unread:
            self._unread_by_client, self.last_read_at = unread, now
        elif now - self.last_read_at > send_timeout:
            self.transport.abort()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting_since = now
        elif now - self._waiting_since > header_timeout and not self._rejected:
            if self._in_head:
                self._reject(408)
            elif self._in_body or self.timeout_keep_alive_task is None:
                self.transport.close()  # nothing arrives, or not the rest of a body that was answered early


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Tell the application that the client of a request has disconnected."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


def _unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Return the number of sent bytes that the peer has not acknowledged; 0 if the system does not report it."""
    try:
        unsent = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(unsent, sys.byteorder)
