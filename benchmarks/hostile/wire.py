"""Raw connections: send bytes unchanged, and parse the answers."""

import asyncio
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import httptools

Part = bytes | float
"""Bytes to send, or a pause in seconds."""

BLOCK = 65_536
HOST = "127.0.0.1"


@dataclass
class Reply:
    """The answers on a connection, and how it ended."""

    statuses: list[int] = field(default_factory=list)
    received: bytes = b""
    """The first 64 KiB of the answers."""
    ended: str = "silent"
    """`answered`, `closed`, `reset`, `refused`, or `silent` (nothing within the limit)."""
    seconds: float = 0.0

    @property
    def status(self) -> int | str:
        """The last answer's status, or how the connection ended."""
        return self.statuses[-1] if self.statuses else self.ended


class _Answers:
    """Counts complete answers with httptools; interim ones (1xx) do not count."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._parser = httptools.HttpResponseParser(self)
        self._complete = True

    def feed(self, data: bytes) -> None:
        if len(self._reply.received) < BLOCK:
            self._reply.received += data[: BLOCK - len(self._reply.received)]
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._note()

    def on_message_begin(self) -> None:
        self._complete = False

    def on_message_complete(self) -> None:
        self._note()

    def _note(self) -> None:
        status = self._parser.get_status_code()
        if status == 101 or status >= 200:
            self._reply.statuses.append(status)
        self._complete = True

    def finish(self) -> None:
        """Count an answer that ends with the connection, even if it is truncated."""
        if not self._complete and self._parser.get_status_code() >= 200:
            self._note()


async def connect(port: int, receive_buffer: int | None = None) -> socket.socket:
    """Open a connection; with a small receive buffer, little is sent to a client that does not read."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
    return sock


async def send(sock: socket.socket, parts: Iterable[Part]) -> None:
    """Send parts in order, until they end or the server closes the connection."""
    loop = asyncio.get_running_loop()
    try:
        for part in parts:
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                await loop.sock_sendall(sock, part)
    except OSError:
        pass  # closed by the server, whose answer can still be read


async def exchange(
    port: int, parts: Iterable[Part], *, answers: int = 1, limit: float = 60, half_close: bool = False
) -> Reply:
    """Send parts on a new connection, and read until `answers` answers, the connection's end, or `limit` seconds."""
    reply = Reply()
    began = time.perf_counter()
    try:
        sock = await connect(port)
    except OSError:
        reply.ended = "refused"
        return reply
    sending = asyncio.create_task(_send_all(sock, parts, half_close=half_close))
    try:
        async with asyncio.timeout(limit):
            await _receive(sock, reply, answers)
    except TimeoutError:
        pass
    finally:
        reply.seconds = time.perf_counter() - began
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        sock.close()
    return reply


async def _send_all(sock: socket.socket, parts: Iterable[Part], *, half_close: bool) -> None:
    await send(sock, parts)
    if half_close:
        sock.shutdown(socket.SHUT_WR)


async def _receive(sock: socket.socket, reply: Reply, answers: int) -> None:
    loop, parsed = asyncio.get_running_loop(), _Answers(reply)
    while len(reply.statuses) < answers:
        try:
            data = await loop.sock_recv(sock, 4 * BLOCK)
        except OSError:
            reply.ended = "reset"
            return
        if not data:
            parsed.finish()
            reply.ended = "closed"
            return
        parsed.feed(data)
    reply.ended = "answered"


def head(method: str, target: str, *headers: str, host: str | None = HOST, version: str = "1.1") -> bytes:
    """Build the head of a request; host None leaves out the Host header."""
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host is not None else []), *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def get(target: str, *headers: str, host: str | None = HOST) -> bytes:
    """Build a GET."""
    return head("GET", target, *headers, host=host)


def post(
    target: str, body: bytes, *headers: str, kind: str | None = "application/json", host: str | None = HOST
) -> bytes:
    """Build a POST with a body; kind None leaves out Content-Type."""
    typed = [f"Content-Type: {kind}"] if kind is not None else []
    return head("POST", target, *typed, f"Content-Length: {len(body)}", *headers, host=host) + body


def chunked(body: bytes, size: int, extension: bytes = b"") -> bytes:
    """Frame a body in chunks of this size."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n\r\n"
