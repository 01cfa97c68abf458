"""Well-formed requests get the same response however they are split, and other bytes are rejected."""

import asyncio
import json

import pytest
from hypothesis import strategies as st

from benchmarks.harness.server import Server
from benchmarks.hostile.wire import Part, chunked, exchange, head
from tests.fuzz.conftest import Fuzz

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3600)]

PATIENCE = 0.2  # seconds for a response to bytes that may be an incomplete request
LIMIT = 4.5  # seconds for a response to a complete request, within the limit for an example

names = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True)
plain = st.from_regex(r"[!-~]([ -~]{0,40}[!-~])?", fullmatch=True)
_SET_BY_THE_TEST = {
    "host", "content-length", "transfer-encoding", "content-type", "content-encoding", "connection", "upgrade",
    "expect", "origin", "trailer", "te", "sec-fetch-site", "authorization",
}  # fmt: skip
others = st.lists(st.tuples(names, plain).filter(lambda pair: pair[0].lower() not in _SET_BY_THE_TEST), max_size=20)
offers = st.sampled_from([
    [], ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"], ["Upgrade: websocket",
    "Connection: Upgrade"], ["Upgrade: TLS/1.0, HTTP/2.0", "Connection: keep-alive, Upgrade"],
])  # fmt: skip


@st.composite
def framed(draw: st.DrawFn) -> tuple[bytes, list[Part]]:
    """Frame a body with a length or in chunks, add headers and an upgrade, and split it into packets."""
    body = json.dumps({"text": draw(st.text(st.characters(codec="utf-8"), max_size=200))}).encode()
    headers = ["Content-Type: application/json", *(f"{name}: {value}" for name, value in draw(others)), *draw(offers)]
    if draw(st.booleans()):
        extension = draw(st.sampled_from([b"", b";a=b", b';name="quoted"']))
        framing, sent = "Transfer-Encoding: chunked", chunked(body, draw(st.integers(1, 50)), extension)
    else:
        framing, sent = f"Content-Length: {len(body)}", body
    at = draw(st.integers(0, len(headers)))
    whole = head("POST", "/any", *headers[:at], framing, *headers[at:]) + sent
    cuts = sorted(draw(st.lists(st.integers(1, len(whole) - 1), max_size=4)))
    parts: list[Part] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        parts += [whole[start:end], 0.002]
    return body, parts


lines = st.sampled_from([
    b"GET / HTTP/1.1\r\n", b"POST /any HTTP/1.1\r\n", b"POST /jobs/work HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n",
    b"GET //a HTTP/1.0\r\n", b"CONNECT a:1 HTTP/1.1\r\n", b"HEAD /health HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n",
    b"GET http://x/%00 HTTP/1.1\r\n", b"Host: 127.0.0.1\r\n", b"Host:\r\n", b"Content-Length: 2\r\n",
    b"Content-Length: 999999\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Type: application/json\r\n",
    b"Content-Type: multipart/form-data; boundary=\r\n", b"Content-Encoding: gzip\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n",
    b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n", b"Authorization: Basic \xff\r\n", b'Cookie: a="\\\r\n',
    b"Range: bytes=0-0,-1,9-\r\n", b" folded\r\n", b"X-Request-ID: \x80\r\n", b"\r\n", b"\n", b"{}", b"2\r\n{}\r\n",
    b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"\x00", b": \r\n",
])  # fmt: skip
streams = st.lists(lines | st.binary(max_size=20), min_size=1, max_size=15).map(b"".join)


def test_a_request_gets_the_same_response_however_it_is_framed_and_split(server: Server, fuzz: Fuzz) -> None:
    def check(example: tuple[bytes, list[Part]]) -> None:
        body, parts = example
        reply = asyncio.run(exchange(server.port, parts, limit=LIMIT))
        assert reply.status == 200, (parts, reply)
        assert json.loads(reply.received.partition(b"\r\n\r\n")[2]) == json.loads(body)

    print(f"{fuzz(framed(), check)} requests")


def test_any_bytes_are_answered_below_500_or_closed(server: Server, fuzz: Fuzz) -> None:
    def check(sent: bytes) -> None:
        reply = asyncio.run(exchange(server.port, [sent], answers=100, limit=PATIENCE))
        assert all(status < 500 or status in {501, 505} for status in reply.statuses), (sent, reply)
        assert server.get("/health").status_code == 200

    print(f"{fuzz(streams, check)} streams of bytes")
