"""Expensive JSON that is valid or almost valid: values, numbers, strings and text encodings (A3)."""

import json
from collections.abc import Callable

from benchmarks.hostile.attack import Row
from benchmarks.hostile.rows.bodies import INVALID, LIMIT, MIB, OK, TOO_LARGE
from benchmarks.hostile.wire import Part, post

CAP = 49_000
"""A number of values below CHUTES_MAX_JSON_VALUES (50 000): accepted bodies must be cheap, too."""


def nested(size: int) -> bytes:
    """Build a body of this size from lists that are 900 levels deep."""
    one = b"[" * 900 + b"]" * 900
    return b'{"a":[' + b",".join([one] * (size // len(one))) + b"]}"


def keys(count: int) -> bytes:
    """Build an object with `count` keys; 1.7 million keys are 16 MB."""
    return b"{" + b",".join(b'"%x":1' % number for number in range(count)) + b"}"


def number(digits: int, form: bytes = b'{"a":%s}') -> bytes:
    """Build a body whose only value is a number."""
    return form % (b"9" * digits)


def text(piece: bytes, size: int) -> bytes:
    """Build a body whose only value is a string that repeats `piece`."""
    return b'{"prompt":"' + piece * ((size - 13) // len(piece)) + b'"}'


def utf16(body: str) -> bytes:
    """Encode a body so that a search for ASCII bytes finds none of the parser's tokens."""
    return body.encode("utf-16-le")


def to(target: str, body: Callable[[], bytes]) -> Callable[[], list[Part]]:
    """POST a body that is built lazily."""
    return lambda: [post(target, body())]


ROWS = [
    Row(
        "A3",
        "lists 900 deep, 16 MB",
        to("/anything", lambda: nested(16 * MIB)),
        TOO_LARGE,
        contains=b"body_too_complex",
    ),
    Row(
        "A3",
        "1.7 million keys, 16 MB",
        to("/anything", lambda: keys(1_700_000)),
        TOO_LARGE,
        contains=b"body_too_complex",
    ),
    Row("A3", "1.7 million unknown fields to a model", to("/generate", lambda: keys(1_700_000)), TOO_LARGE),
    Row("A3", "1.7 million unknown fields to a job", to("/jobs/work", lambda: keys(1_700_000)), TOO_LARGE),
    Row("A3", "49 000 keys", to("/anything", lambda: keys(CAP // 2)), OK),
    Row("A3", "49 000 unknown fields to a model", to("/generate", lambda: keys(CAP // 2)), INVALID),
    Row("A3", "49 000 unknown fields to a job", to("/jobs/work", lambda: keys(CAP // 2)), INVALID),
    Row("A3", "lists 900 deep, 49 000 in all", to("/anything", lambda: nested(CAP * 2)), OK),
    Row("A3", "24 000 times the same key", to("/anything", lambda: b"{" + b'"a":1,' * (CAP // 2) + b'"a":2}'), OK),
    Row(
        "A3",
        "49 000 numbers of 640 digits, 31 MB",
        to("/anything", lambda: b'{"a":[' + b",".join([b"9" * 640] * (CAP - 4)) + b"]}"),
        TOO_LARGE,
    ),
    Row(
        "A3",
        "49 000 numbers of 20 digits",
        to("/anything", lambda: b'{"a":[' + b",".join([b"9" * 20] * (CAP - 4)) + b"]}"),
        OK,
    ),
    Row("A3", "64 MB of separators inside a string", to("/anything", lambda: text(b",:[{", LIMIT)), OK | TOO_LARGE),
    # Numbers.
    Row("A3", "a number of 640 digits", to("/anything", lambda: number(640)), OK),
    Row("A3", "a number of 5 000 digits", to("/anything", lambda: number(5000)), INVALID),
    Row("A3", "a number of 1 million digits", to("/anything", lambda: number(1_000_000)), INVALID),
    Row("A3", "a fraction of 1 million digits", to("/anything", lambda: number(1_000_000, b'{"a":0.%s}')), INVALID),
    Row("A3", "an exponent of 1 million digits", to("/anything", lambda: number(1_000_000, b'{"a":1e%s}')), INVALID),
    Row("A3", "16 MB of digits in a string", to("/anything", lambda: number(16 * MIB, b'{"a":"%s"}')), OK),
    Row("A3", "16 MB of digits in an unclosed string", to("/anything", lambda: number(16 * MIB, b'{"a":"%s')), INVALID),
    # Strings.
    Row("A3", "5 MB of escapes", to("/generate", lambda: text(rb"\u00e9", 5 * MIB)), OK),
    Row("A3", "5 MB of surrogate pairs", to("/generate", lambda: text(rb"\ud83d\ude00", 5 * MIB)), OK),
    Row("A3", "5 MB of half surrogate pairs", to("/generate", lambda: text(rb"\ud83d", 5 * MIB)), INVALID),
    Row("A3", "16 MB of escapes", to("/generate", lambda: text(rb"\u00e9", 16 * MIB)), TOO_LARGE),
    Row("A3", "64 MB of escapes", to("/generate", lambda: text(rb"\n", LIMIT)), TOO_LARGE),
    Row("A3", "64 MB of two-byte characters", to("/generate", lambda: text("é".encode(), LIMIT)), OK),
    Row(
        "A3",
        "64 MB of ASCII and one emoji",
        to("/generate", lambda: "😀".encode().join([b'{"prompt":"', text(b"x", LIMIT - 20)[11:]])),
        TOO_LARGE,
    ),
    Row(
        "A3",
        "24 MB of ASCII and one emoji",
        to("/generate", lambda: "😀".encode().join([b'{"prompt":"', text(b"x", 24 * MIB - 20)[11:]])),
        OK,
    ),
    Row("A3", "64 MB that are not UTF-8", to("/generate", lambda: text(b"x", LIMIT - 20)[:-2] + b'\xff"}'), INVALID),
    # Other encodings of text, which Python's parser detects by itself.
    Row("A3", "UTF-16: NaN", to("/anything", lambda: utf16('{"a": NaN}')), INVALID),
    Row("A3", "UTF-16: a number of 5 000 digits", to("/anything", lambda: utf16('{"a": ' + "9" * 5000 + "}")), INVALID),
    Row("A3", "UTF-16: 100 000 keys", to("/anything", lambda: utf16(keys(100_000).decode())), INVALID | TOO_LARGE),
    Row("A3", "a byte-order mark", to("/anything", lambda: b"\xef\xbb\xbf{}"), INVALID | OK),
    Row("A3", "one string as the whole body", to("/generate", lambda: json.dumps("x" * MIB).encode()), INVALID),
]
