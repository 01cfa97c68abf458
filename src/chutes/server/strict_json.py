"""What is not JSON although Python's parser takes it."""

import asyncio
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

_LONG = 1 << 16  # bytes
_ODD_NUMBERS = (b"NaN", b"Infinity")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)

_HALF = "Input should be valid Unicode: it contains half of a surrogate pair"


async def json_fault(body: bytes) -> dict[str, Any] | None:
    """What Python's parser lets pass although it is not JSON: NaN, Infinity, half a surrogate pair, no UTF-8.

    As a validation error, which says where it is; None if there is nothing. What is long is looked through in a thread:
    the loop has others to answer meanwhile.
    """
    return _json_fault(body) if len(body) < _LONG else await asyncio.to_thread(_json_fault, body)


def _json_fault(body: bytes) -> dict[str, Any] | None:
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return _fault(["body"], "The body is not UTF-8")
    if b"\\ud" in body or b"\\uD" in body or _has_odd_number(body):
        return find_fault(body)
    return None


def _has_odd_number(body: bytes) -> bool:
    """Whether NaN or Infinity stands outside of strings; inside they are words."""
    if not any(number in body for number in _ODD_NUMBERS):
        return False
    bare = _STRING.sub(b"", body)
    return any(number in bare for number in _ODD_NUMBERS)


def find_fault(body: bytes) -> dict[str, Any] | None:
    """Look at every value, and at numbers with more digits than Python reads."""
    try:
        read = json.loads(body, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return None  # broken in another way, which whoever parses it next will say better
    # One iterator for each list and object that is open, so that even a million values take no memory here.
    pending: list[Iterator[tuple[str | int, Any]]] = [iter([("body", read)])]
    within: list[str | int] = []  # the keys of those that are open
    while pending:
        if (item := next(pending[-1], None)) is None:
            pending.pop()
            del within[-1:]
            continue
        key, value = item
        if isinstance(key, str) and not _is_text(key):
            return _fault(within, _HALF)
        if isinstance(value, str) and not _is_text(value):
            return _fault([*within, key], _HALF)
        if isinstance(value, float) and not math.isfinite(value):
            return _fault([*within, key], "Input should be a finite number of a reasonable length")
        if isinstance(value, (list, dict)):
            pending.append(enumerate(value) if isinstance(value, list) else iter(value.items()))
            within.append(key)
    return None


def _whole_number(digits: str) -> float:
    limit = sys.get_int_max_str_digits()
    return int(digits) if not limit or len(digits) <= limit else math.inf


def _fault(where: Iterable[str | int], message: str) -> dict[str, Any]:
    return {"type": "json_invalid", "loc": tuple(where), "msg": message}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
