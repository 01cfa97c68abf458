"""JSON bodies: quadratic parsers, media types, limits and encodings (A1, A2, A4, C2), after a valid request."""

import gzip
import zlib
from collections.abc import Callable

from benchmarks.hostile.attack import CLOSED, Outcome, Row
from benchmarks.hostile.wire import Part, chunked, head, post

KIB, MIB = 1024, 1024 * 1024
LIMIT = 64 * MIB

OK: frozenset[Outcome] = frozenset({200})
INVALID: frozenset[Outcome] = frozenset({422})
UNSUPPORTED: frozenset[Outcome] = frozenset({415})
TOO_LARGE: frozenset[Outcome] = frozenset({413})


def unclosed(size: int) -> bytes:
    r"""Build the quadratic body: `NaN`, then a string of `\"` that never ends."""
    return b'{"a":"NaN' + b'\\"' * ((size - 9) // 2)


def nan(size: int, target: str = "/generate", kind: str | None = "application/json") -> Callable[[], list[Part]]:
    """Build a POST of the quadratic body."""
    return lambda: [post(target, unclosed(size), kind=kind)]


def prompt(size: int) -> bytes:
    """Build a valid body of exactly this size."""
    return b'{"prompt":"' + b"x" * (size - 13) + b'"}'


def bomb(size: int) -> bytes:
    """Compress a valid body of this size."""
    return gzip.compress(prompt(size), 6)


def encoded(body: bytes, coding: str, target: str = "/generate") -> bytes:
    """Build a POST with a Content-Encoding."""
    return post(target, body, f"Content-Encoding: {coding}")


def _chunked(target: str, framed: bytes, kind: str = "application/json") -> bytes:
    return head("POST", target, f"Content-Type: {kind}", "Transfer-Encoding: chunked") + framed


ROWS = [
    Row("-", "a valid request", lambda: [post("/generate", b'{"prompt": "x"}')], OK),
    # A1: nothing takes more than linear time.
    Row("A1", r"NaN, then an unclosed string of `\"`, 16 KB", nan(16 * KIB), INVALID),
    Row("A1", "the same, 64 KB", nan(64 * KIB), INVALID),
    Row("A1", "the same, 1 MB", nan(MIB), INVALID),
    Row("A1", "the same to `POST /jobs/work`, 64 KB", nan(64 * KIB, "/jobs/work"), INVALID),
    Row(
        "A1",
        r"NaN inside a valid string of `\"`, 1 MB",
        lambda: [post("/anything", unclosed(MIB) + b'"}')],
        OK,
    ),
    Row(
        "A1",
        "NaN as a value behind 1 MB of text",
        lambda: [post("/anything", prompt(MIB)[:-1] + b',"b":NaN}')],
        INVALID,
    ),
    Row("A1", "16 MB of white space", lambda: [post("/anything", b" " * 16 * MIB + b"{}")], OK),
    Row("A1", "1 MB of minus signs", lambda: [post("/anything", b'{"a":' + b"-" * MIB + b"}")], INVALID),
    Row("A1", "100 000 opening brackets", lambda: [post("/anything", b"[" * 100_000)], INVALID | TOO_LARGE),
    # A2: the media type is decided before anything is read.
    Row(
        "A2",
        "`text/plain;a=json`: NaN, then an unclosed string, 64 KB",
        nan(64 * KIB, kind="text/plain;a=json"),
        UNSUPPORTED,
    ),
    Row("A2", "no Content-Type: NaN, then an unclosed string, 64 KB", nan(64 * KIB, kind=None), UNSUPPORTED),
    Row("A2", "`text/plain` to a job", nan(KIB, "/jobs/work", "text/plain"), UNSUPPORTED),
    Row("A2", "`text/plain`, chunked", lambda: [_chunked("/generate", chunked(b"{}", 2), "text/plain")], UNSUPPORTED),
    Row("A2", "`text/plain` without a body", lambda: [post("/generate", b"", kind="text/plain")], OK),
    Row(
        "A2",
        "`text/plain` to a passthrough cord",
        lambda: [post("/proxied", b"text", kind="text/plain")],
        OK,
        contains=b"4 bytes",
    ),
    # A4: limits of size.
    Row("A4", "64 MiB, the limit", lambda: [post("/generate", prompt(LIMIT))], OK),
    Row("A4", "64 MiB and one byte", lambda: [post("/generate", prompt(LIMIT + 1))], TOO_LARGE),
    Row(
        "A4",
        "Content-Length of 20 digits",
        lambda: [head("POST", "/generate", "Content-Type: application/json", f"Content-Length: {'9' * 20}") + b"{"],
        TOO_LARGE | {400},
    ),
    Row(
        "A4",
        "`Expect: 100-continue` with 1 TB",
        lambda: [
            head(
                "POST",
                "/generate",
                "Content-Type: application/json",
                "Content-Length: 1000000000000",
                "Expect: 100-continue",
            )
        ],
        TOO_LARGE,
    ),
    Row(
        "A4",
        "100 MB in chunks of 64 KB",
        lambda: [_chunked("/generate", chunked(b"x" * 100 * MIB, 64 * KIB))],
        TOO_LARGE,
    ),
    Row("A4", "2 MiB to a cord that takes 1 MiB", lambda: [post("/small", prompt(2 * MIB))], TOO_LARGE),
    Row("A4", "2 MiB to a job that takes 1 MiB", lambda: [post("/jobs/report", prompt(2 * MIB))], TOO_LARGE),
    # C2: encodings.
    Row("C2", "valid gzip", lambda: [encoded(bomb(100), "gzip")], OK, contains=b'"length":87'),
    Row("C2", "gzip bomb: 100 KB that become 100 MB", lambda: [encoded(bomb(100 * MIB), "gzip")], TOO_LARGE),
    Row(
        "C2",
        "gzip of gzip: 1 KB that become 100 MB",
        lambda: [encoded(gzip.compress(bomb(100 * MIB)), "gzip, gzip")],
        UNSUPPORTED | TOO_LARGE,
    ),
    Row("C2", "gzip cut short", lambda: [encoded(bomb(KIB)[:-10], "gzip")], INVALID | {400}),
    Row("C2", "`gzip`, but the body is not compressed", lambda: [encoded(b"{}", "gzip")], INVALID | {400}),
    Row("C2", "`deflate`", lambda: [encoded(zlib.compress(b"{}"), "deflate")], UNSUPPORTED, contains=b"deflate"),
    Row("C2", "an unknown Content-Encoding", lambda: [encoded(b"{}", "rot13")], UNSUPPORTED, contains=b"rot13"),
    Row("C2", "gzip bomb to a job", lambda: [encoded(bomb(100 * MIB), "gzip", "/jobs/work")], TOO_LARGE),
    Row(
        "C2",
        "gzip bomb to a passthrough cord: forwarded unchanged",
        lambda: [encoded(bomb(100 * MIB), "gzip", "/proxied")],
        OK,
        contains=b"bytes, gzip",
    ),
    # A4 and C: framing of a body.
    Row("A4", "1 MB in chunks of one byte", lambda: [_chunked("/generate", chunked(prompt(MIB), 1))], OK),
    Row(
        "A5",
        "16 KB of extension on each of 6 000 chunks (100 MB)",
        lambda: [_chunked("/generate", chunked(prompt(6000), 1, b";" + b"x" * 16 * KIB))],
        OK | TOO_LARGE | CLOSED | {400, 431},
    ),
]
