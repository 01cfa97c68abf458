"""uvicorn's WebSocket protocol, with a response to every handshake and a limit on the work done at once."""

import asyncio
import logging

from typing_extensions import override
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

log = logging.getLogger(__name__)

_SLICE = 2048  # bytes handled at once: up to a thousand empty frames
_MAX_UNSENT = 64 * 1024  # bytes that the client has not read, such as answers to its pings
_CHECK_INTERVAL = 0.01  # seconds between checks of unread data
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket connection. Received data is handled in slices, so that other connections get a turn."""

    _rest = b""
    transport: asyncio.Transport

    @override
    def data_received(self, data: bytes) -> None:
        if self._rest:
            self._rest += data  # received before reading was paused
        else:
            self._handle(data)

    @override
    def shutdown(self) -> None:
        try:
            super().shutdown()
        except Exception:
            log.exception("A WebSocket could not be closed cleanly")
            self.transport.abort()

    def _handle(self, data: bytes) -> None:
        super().data_received(data[:_SLICE])
        if self.conn.handshake_exc is not None and not self.handshake_complete:
            self._reject()
            return
        self._rest = data[_SLICE:]
        if self._rest and not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_soon(self._continue)

    def _reject(self) -> None:
        """Answer a handshake that the library rejects without a response, such as one with an oversized header."""
        self.handshake_complete = self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
        self.transport.close()

    def _continue(self) -> None:
        if self.transport.is_closing():
            self._rest = b""
        elif self.read_paused or self.transport.get_write_buffer_size() > _MAX_UNSENT:
            self.loop.call_later(_CHECK_INTERVAL, self._continue)  # the application or the client must read first
        else:
            rest, self._rest = self._rest, b""
            self._handle(rest)
            if not self._rest and not self.read_paused and not self.transport.is_closing():
                self.transport.resume_reading()
