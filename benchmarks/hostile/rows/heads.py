"""Request lines, headers, framing and protocols (A5, C1, C3, C4, C5)."""

import base64
from collections.abc import Callable, Iterator
from itertools import repeat

from benchmarks.hostile.attack import CLOSED, Outcome, Row, crowd
from benchmarks.hostile.rows.bodies import KIB, OK
from benchmarks.hostile.wire import Part, chunked, get, head, post

HUNDRED_MB = 100_000_000
HEADERS: frozenset[Outcome] = frozenset({431})
LINE: frozenset[Outcome] = frozenset({414})
BAD: frozenset[Outcome] = frozenset({400})
BODY = b'{"prompt": "as it was sent"}'
KEPT = b"as it was sent"
START = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def many(line: bytes, start: bytes = START) -> Callable[[], Iterator[Part]]:
    """Send 100 MB of repeated header lines, in a head that never ends."""
    block = line * (64 * KIB // len(line))
    return lambda: iter((start, *repeat(block, HUNDRED_MB // len(block))))


def trailers() -> Iterator[Part]:
    """Send a complete body, followed by 100 MB of trailers."""
    yield head("POST", "/generate", "Content-Type: application/json", "Transfer-Encoding: chunked")
    yield b"2\r\n{}\r\n0\r\n"
    yield from repeat(b"a: bcdefgh\r\n" * 5000, HUNDRED_MB // 60_000)


def offer(protocol: str, *, packets: int = 1, framed: bool = False) -> Callable[[], list[Part]]:
    """POST a body with an offer to upgrade, as `curl --http2` and Java's HttpClient do."""
    also = ["HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"] if protocol == "h2c" else ["Sec-WebSocket-Version: 13"]
    named = ["Upgrade: " + protocol, f"Connection: Upgrade{', HTTP2-Settings' if protocol == 'h2c' else ''}", *also]
    if framed:
        kinds = ["Content-Type: application/json", "Transfer-Encoding: chunked"]
        whole = head("POST", "/generate", *kinds, *named) + chunked(BODY, 7)
    else:
        whole = post("/generate", BODY, *named)
    cut = whole.index(b"\r\n\r\n") + 4
    return lambda: [whole] if packets == 1 else [whole[:cut], 0.1, whole[cut:]]


def raw(sent: bytes) -> Callable[[], list[Part]]:
    """Send these bytes."""
    return lambda: [sent]


def framed(*headers: str, body: bytes = b"{}") -> Callable[[], list[Part]]:
    """POST with framing headers that contradict each other or the standard."""
    return raw(head("POST", "/generate", "Content-Type: application/json", *headers) + body)


ROWS = [
    # A5: bounded heads.
    Row("A5", "100 headers", raw(get("/health", *["a: bcdefgh"] * 99)), OK),
    Row("A5", "101 headers", raw(get("/health", *["a: bcdefgh"] * 101)), HEADERS),
    Row("A5", "one header of 60 KB", raw(get("/health", "a: " + "x" * 60 * KIB)), OK),
    Row("A5", "one header of 65 KB", raw(get("/health", "a: " + "x" * 65 * KIB)), HEADERS),
    Row("A5", "100 MB of 12-byte headers", many(b"a: bcdefgh\r\n"), HEADERS),
    Row("A5", "one header of 100 MB", many(b"x", START + b"a: "), HEADERS),
    Row("A5", "a header name of 100 MB", many(b"x"), HEADERS | BAD),
    Row("A5", "100 MB of folded header lines", many(b" x\r\n", START + b"a: b\r\n"), HEADERS | BAD),
    Row("A5", "a request line of 15 KB", raw(get("/" + "x" * 15 * KIB)), frozenset({404})),
    Row("A5", "a request line of 20 KB", raw(get("/" + "x" * 20 * KIB)), LINE),
    Row("A5", "a request line of 100 MB", lambda: iter((b"GET /", *repeat(b"x" * 64 * KIB, 1526))), LINE),
    Row("A5", "a method of 1 MB", lambda: iter(repeat(b"G" * 64 * KIB, 16)), LINE | BAD),
    Row(
        "A5",
        "100 MB of empty lines before the request",
        lambda: iter(repeat(b"\r\n" * 32 * KIB, 1526)),
        LINE | HEADERS | BAD | CLOSED,
    ),
    Row("A5", "100 MB of trailers", trailers, OK | HEADERS | BAD | CLOSED),
    Row("A5", "10 000 pipelined requests: the first 65 are answered", raw(post("/generate", BODY) * 10_000), OK),
    Row("A5", "a request in packets of one byte", lambda: [b"%c" % byte for byte in post("/generate", BODY)], OK),
    Row("A5", "a request ID of 60 KB", raw(get("/health", "X-Request-ID: " + "x" * 60 * KIB)), OK),
    Row(
        "A5",
        "Basic credentials of 45 KB",
        raw(post("/generate", BODY, "Authorization: Basic " + base64.b64encode(b":" * 45_000).decode())),
        frozenset({401}),
        settings={"api_keys": "a-key"},
    ),
    Row("A5", "100 MB of headers without a key", many(b"a: bcdefgh\r\n"), HEADERS, settings={"api_keys": "a-key"}),
    # C1: offers to upgrade.
    Row("C1", "`Upgrade: h2c` with a body", offer("h2c"), OK, contains=KEPT),
    Row("C1", "`Upgrade: h2c`, head and body in two packets", offer("h2c", packets=2), OK, contains=KEPT),
    Row("C1", "`Upgrade: h2c`, chunked", offer("h2c", framed=True), OK, contains=KEPT),
    Row("C1", "`Upgrade: h2c`, chunked and in two packets", offer("h2c", packets=2, framed=True), OK, contains=KEPT),
    Row("C1", "`Upgrade: websocket` on a POST with a body", offer("websocket"), OK, contains=KEPT),
    Row("C1", "`Upgrade: websocket`, head and body in two packets", offer("websocket", packets=2), OK, contains=KEPT),
    Row("C1", "an unknown upgrade with a body", offer("carrier-pigeon"), OK, contains=KEPT),
    Row(
        "C1",
        "`Upgrade: h2c` on a GET",
        raw(get("/health", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AA")),
        OK,
    ),
    Row(
        "C1",
        "`Upgrade: h2c` with 100 MB of headers",
        lambda: iter((START + b"Connection: Upgrade\r\nUpgrade: h2c\r\n", *repeat(b"a: bcdefgh\r\n" * 5000, 1666))),
        HEADERS,
    ),
    Row("C1", "HTTP/2 with prior knowledge", raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), BAD | CLOSED | {505}),
    # C3: answers that cannot be sent.
    Row("C3", "a handler puts CRLF into a header", raw(post("/header", b"")), frozenset({500})),
    # C4: control characters and bytes that are no HTTP.
    Row(
        "C4",
        "escape sequences in the path",
        raw(get("/a%0a%1b[31mX")),
        frozenset({404}),
        log_lacks="\x1b[31mX",
        settings={"log_format": "console"},
    ),
    Row(
        "C4",
        "raw control characters in the path",
        raw(b"GET /\x1b[31mX HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        BAD,
        log_lacks="\x1b[31mX",
    ),
    Row("C4", "a NUL in a header", raw(get("/health", "a: \x00")), BAD),
    Row("C4", "a bare CR in a header", raw(get("/health", "a: b\rc: d")), BAD),
    Row("C4", "TLS to a plain port", raw(bytes.fromhex("16030102000100 01fc0303") + bytes(500)), BAD | CLOSED),
    Row("C4", "64 KB of zeros", raw(bytes(64 * KIB)), BAD | CLOSED),
    Row("C4", "1 000 connections that send no HTTP", raw(b"\x00\x01\x02\r\n\r\n"), BAD, attack=crowd(1000)),
    Row("C4", "a space before the colon", raw(get("/health", "Host : evil.example")), BAD),
    Row("C4", "HTTP/9.9", raw(head("GET", "/health", version="9.9")), BAD | {505}),
    Row(
        "C4",
        "Content-Length and Transfer-Encoding",
        framed("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        BAD,
    ),
    Row("C4", "two Content-Lengths", framed("Content-Length: 2", "Content-Length: 3"), BAD),
    Row("C4", "`Content-Length: +2`", framed("Content-Length: +2"), BAD),
    Row("C4", "`Content-Length: -1`", framed("Content-Length: -1"), BAD),
    Row("C4", "`Transfer-Encoding: identity`", framed("Transfer-Encoding: identity"), BAD | {501}),
    Row(
        "C4",
        "a chunk size of 17 digits",
        framed("Transfer-Encoding: chunked", body=b"1" + b"0" * 16 + b"\r\nx"),
        BAD | {413},
    ),
    # C5: half a connection.
    Row(
        "C5",
        "a client that closes its sending side",
        raw(post("/wait", b'{"seconds": 1}')),
        CLOSED | OK,
        half_close=True,
    ),
]
