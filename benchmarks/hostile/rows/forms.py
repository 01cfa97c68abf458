"""Forms, queries and cookies, which have parsers of their own."""

from collections.abc import Callable, Iterable

from benchmarks.hostile.attack import Outcome, Row
from benchmarks.hostile.rows.bodies import KIB, MIB, OK
from benchmarks.hostile.wire import Part, get, post

REFUSED: frozenset[Outcome] = frozenset({400, 413, 422, 431})
FILE = 'name="file"; filename="a.bin"'


def part(disposition: str, content: bytes, boundary: bytes = b"edge", extra: bytes = b"") -> bytes:
    """Build one part of a multipart body."""
    fields = b"Content-Disposition: form-data; " + disposition.encode() + extra
    return b"--" + boundary + b"\r\n" + fields + b"\r\n\r\n" + content + b"\r\n"


def multipart(parts: Callable[[], Iterable[bytes]], boundary: str = "edge") -> Callable[[], list[Part]]:
    """POST a multipart form of these parts."""
    end = f"--{boundary}--\r\n".encode()
    return lambda: [post("/upload", b"".join(parts()) + end, kind=f"multipart/form-data; boundary={boundary}")]


def escaped(size: int) -> str:
    """Build the cookie that takes quadratic time in Python before 3.11.10 and 3.12.6 (CVE-2024-7592)."""
    return 'Cookie: session="' + "\\" * size + '"'


ROWS = [
    Row("A3", "multipart: a valid file", multipart(lambda: [part(FILE, b"x" * MIB)]), OK, contains=b'"size":1048576'),
    Row(
        "A3",
        "multipart: 100 000 fields",
        multipart(lambda: (part(f'name="f{n}"', b"x") for n in range(100_000))),
        REFUSED,
    ),
    Row("A3", "multipart: 100 000 files", multipart(lambda: (part(FILE, b"") for _ in range(100_000))), REFUSED),
    Row(
        "A3",
        "multipart: 900 fields of 64 KB",
        multipart(lambda: [part(FILE, b""), *(part(f'name="f{n}"', b"x" * 64 * KIB) for n in range(900))]),
        OK | REFUSED,
    ),
    Row(
        "A3",
        "multipart: a field of 60 MB",
        multipart(lambda: [part('name="note"', b"x" * 60 * MIB), part(FILE, b"")]),
        REFUSED,
    ),
    Row(
        "A3",
        "multipart: a part with 10 MB in one header",
        multipart(lambda: [part(FILE, b"x", extra=b"\r\nX-Padding: " + b"x" * 10 * MIB)]),
        OK | REFUSED,
    ),
    Row(
        "A3",
        "multipart: a part with 500 000 headers",
        multipart(lambda: [part(FILE, b"x", extra=b"\r\na: b" * 500_000)]),
        OK | REFUSED,
    ),
    Row("A3", "multipart: 16 MB of almost-boundaries", multipart(lambda: [part(FILE, b"\r\n--edg" * (2 * MIB))]), OK),
    Row("A3", "multipart: 16 MB of line breaks", multipart(lambda: [part(FILE, b"\r\n" * (8 * MIB))]), OK),
    Row(
        "A3",
        "multipart: a multipart body of 1 000 parts inside a file",
        multipart(lambda: [part(FILE, part(FILE, b"x", b"inner") * 1000)]),
        OK | REFUSED,
    ),
    Row("A3", "multipart: 8 KB of boundary", multipart(lambda: [part(FILE, b"x")], "b" * 8 * KIB), OK | REFUSED),
    Row(
        "A3", "multipart: no boundary", lambda: [post("/upload", part(FILE, b"x"), kind="multipart/form-data")], REFUSED
    ),
    Row(
        "A3",
        "multipart: never closed",
        lambda: [post("/upload", part(FILE, b"x"), kind="multipart/form-data; boundary=edge")],
        OK | REFUSED,
    ),
    Row(
        "A3",
        "form: 1 million fields",
        lambda: [post("/upload", b"&".join([b"a=b"] * 1_000_000), kind="application/x-www-form-urlencoded")],
        REFUSED,
    ),
    Row("A3", "query: 5 000 parameters", lambda: [get("/search?" + "&".join(["a="] * 5000))], OK),
    Row("A3", "query: 1 MB", lambda: [get("/search?" + "&".join(["a="] * 350_000))], frozenset({414})),
    Row("A3", "cookies: 12 000 in 48 KB", lambda: [get("/cookies", "Cookie: " + ";".join(["a=b"] * 12_000))], OK),
    Row("A3", "cookies: 8 KB of backslashes in quotes", lambda: [get("/cookies", escaped(8 * KIB))], OK | REFUSED),
    Row("A3", "cookies: 48 KB of backslashes in quotes", lambda: [get("/cookies", escaped(48 * KIB))], OK | REFUSED),
    Row(
        "A3",
        "cookies: the same to `/health`, without a key",
        lambda: [get("/health", escaped(48 * KIB))],
        OK | REFUSED,
    ),
]
