"""Parse a JSON body within limits, and refuse what Python's parser accepts although it is not JSON.

Python's parser holds the interpreter lock while it runs, so that no other request is answered, probes included. The
body is therefore scanned first, in slices and in linear time: one that would take long to parse is refused unparsed.
"""

import asyncio
import codecs
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from chutes.exception import BodyTooComplex

_SLICE = 1 << 20  # bytes scanned at once, about 3 ms
_MAX_DIGITS = 640  # of a number; Python converts longer ones in quadratic time
_ESCAPES_PER_VALUE = 20  # a long text in JSON escapes its line breaks, and PHP every slash of a base64 image
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG_NUMBER = b"0" * (_MAX_DIGITS + 1)

_HALF_PAIR = "Input should be valid Unicode: it contains half of a surrogate pair"
_NOT_FINITE = f"Input should be a finite number of at most {_MAX_DIGITS} digits"


class InvalidJson(ValueError):
    """The body is not JSON. `error` says where, in the form of a validation error."""

    def __init__(self, where: Iterable[str | int], message: str, **more: Any) -> None:
        super().__init__(message)
        self.error = {"type": "json_invalid", "loc": tuple(where), "msg": message, **more}


async def parse_json(body: bytes, max_values: int) -> Any:
    """Return the value of a JSON text. Raise BodyTooComplex (413) or InvalidJson (422).

    `max_values` bounds the number of `,`, `:`, `[` and `{`, a cheap upper bound of the number of values and keys.
    """
    long_number = await _scan(body, max_values)
    return _parse(body, long_number=long_number)


async def _scan(body: bytes, max_values: int) -> bool:
    """Check size and encoding of a body. Return whether it may contain a number of too many digits."""
    values = escapes = 0
    long_number = False
    decoder = None if body.isascii() else codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _SLICE):
        if start:
            await asyncio.sleep(0)
        part = body[start : start + _SLICE]
        values += part.count(b",") + part.count(b":") + part.count(b"[") + part.count(b"{")
        escapes += part.count(b"\\")
        if values > max_values or escapes > max_values * _ESCAPES_PER_VALUE:
            raise BodyTooComplex(f"The JSON body has more than {max_values} values", headers={"Connection": "close"})
        if b"\0" in part:  # Python would guess that this is UTF-16 or UTF-32
            raise InvalidJson(["body"], "The body is not UTF-8: it contains a zero byte")
        if decoder is not None:
            try:
                decoder.decode(part, final=start + _SLICE >= len(body))
            except UnicodeDecodeError:
                raise InvalidJson(["body"], "The body is not UTF-8") from None
        overlap = body[start : start + _SLICE + _MAX_DIGITS]
        long_number = long_number or _LONG_NUMBER in overlap.translate(_DIGITS)
    return long_number


def _parse(body: bytes, *, long_number: bool) -> Any:
    not_finite = False

    def refuse(_: str) -> float:
        nonlocal not_finite
        not_finite = True
        return math.nan

    def limit(convert: type[int] | type[float]) -> Any:
        return lambda digits: convert(digits) if len(digits) <= _MAX_DIGITS else refuse(digits)

    numbers = {"parse_int": limit(int), "parse_float": limit(float)} if long_number else {}
    try:
        value = json.loads(body, parse_constant=refuse, **numbers)
    except json.JSONDecodeError as error:
        raise InvalidJson(
            ["body", error.pos], "JSON decode error", ctx={"error": error.msg}
        ) from None  # as FastAPI does
    except RecursionError:
        raise InvalidJson(["body"], "The JSON body is nested too deeply") from None
    if not_finite or b"\\ud" in body or b"\\uD" in body:
        _check_values(value)
    return value


def _check_values(value: Any) -> None:
    """Raise InvalidJson at the first string that has no UTF-8, and at the first number that is NaN."""
    # One iterator for each list and object that is open.
    pending: list[Iterator[tuple[str | int, Any]]] = [iter([("body", value)])]
    path: list[str | int] = []  # the keys of those that are open
    while pending:
        if (item := next(pending[-1], None)) is None:
            pending.pop()
            del path[-1:]
            continue
        key, value = item
        if isinstance(key, str) and not _is_text(key):
            raise InvalidJson(path, _HALF_PAIR)
        if isinstance(value, str) and not _is_text(value):
            raise InvalidJson([*path, key], _HALF_PAIR)
        if isinstance(value, float) and math.isnan(value):
            raise InvalidJson([*path, key], _NOT_FINITE)
        if isinstance(value, (list, dict)):
            pending.append(enumerate(value) if isinstance(value, list) else iter(value.items()))
            path.append(key)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
