"""Parse JSON bodies within limits, and without Python's extensions of JSON such as NaN.

Python's parser holds the interpreter lock, so no other request is answered while it runs, not even a probe. Therefore
the body is first scanned in slices and in linear time. A body that would take too long to parse is rejected unparsed.
"""

import asyncio
import json
import math
import sys
from codecs import IncrementalDecoder, getincrementaldecoder
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from chutes.exception import BodyTooComplex

_SLICE = 1 << 20  # bytes scanned before other requests get a turn, about 3 ms
_MAX_DIGITS = 640  # of one number; Python converts longer ones in quadratic time
_MAX_COLLISIONS = 1000  # integers with the same hash
_MIN_COLLIDING_DIGITS = 19  # of an integer whose hash differs from itself
_MIN_DIGITS_TO_CHECK = 10_000  # a body with fewer cannot contain a thousand such integers
_MAX_SHORT_DIGITS = 40  # of a number that does not count as long
_MAX_LONG_DIGITS = 1_000_000  # of all long numbers together
_MAX_ESCAPES = 1_000_000  # backslashes; PHP escapes every slash of a base64 image
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG_NUMBER = b"0" * (_MAX_DIGITS + 1)
_ASTRAL = bytes(range(0xF0, 0xF5))  # first UTF-8 bytes of characters beyond U+FFFF
_ASTRAL_WIDTH = 4  # bytes per character of a Python string that contains one beyond U+FFFF
_CLOSE = {"Connection": "close"}
_STRIDE = 64  # bytes between samples in the search for long numbers

_HALF_PAIR = "Input should be valid Unicode: it contains half of a surrogate pair"
_NOT_FINITE = f"Input should be a finite number of at most {_MAX_DIGITS} digits"


class InvalidJson(ValueError):
    """The body is not JSON. `error` has the location, in the form of pydantic's validation errors."""

    def __init__(self, location: Iterable[str | int], message: str, **more: Any) -> None:
        super().__init__(message)
        self.error = {"type": "json_invalid", "loc": tuple(location), "msg": message, **more}


async def parse_json(body: bytes, max_values: int, max_text_bytes: int) -> Any:
    """Return the value of a JSON text. Raise BodyTooComplex (413) or InvalidJson (422).

    - `max_values`: limit on the number of `,`, `:`, `[` and `{`, a cheap upper bound of the number of values and keys.
    - `max_text_bytes`: limit on the memory of the decoded text. A single emoji makes every character take four bytes.
    """
    scan = _Scan(max_values, max_text_bytes)
    scan.feed(body, 0)
    for start in range(_SLICE, len(body), _SLICE):
        await asyncio.sleep(0)
        scan.feed(body, start)
    return scan.parse()


class _Scan:
    """A scanner that checks and decodes a body slice by slice."""

    def __init__(self, max_values: int, max_text_bytes: int) -> None:
        self._max_values = max_values
        self._max_text_bytes = max_text_bytes
        self._values = self._escapes = 0
        self._many_digits = self._needs_check = self._astral = False
        self._characters = self._digits = 0
        self._decoder: IncrementalDecoder | None = None  # from the first slice that is not ASCII
        self._text: list[str] = []

    def feed(self, body: bytes, start: int) -> None:
        """Check the slice that begins at `start`."""
        part = body[start : start + _SLICE]
        escapes = part.count(b"\\")
        self._escapes += escapes
        self._values += len(part) - len(part.translate(None, b",:[{"))
        if self._values > self._max_values:
            raise BodyTooComplex(f"The JSON body has more than {self._max_values} values.", headers=_CLOSE)
        if self._escapes > _MAX_ESCAPES:
            raise BodyTooComplex(f"The JSON body has more than {_MAX_ESCAPES} backslashes.", headers=_CLOSE)
        if b"\0" in part:  # Python would guess that this is UTF-16 or UTF-32
            raise InvalidJson(["body"], "The body is not UTF-8: it contains a zero byte")
        text = self._decode_slice(part, start, final=start + _SLICE >= len(body))
        self._text.append(text)
        self._characters += len(text)
        if self._astral and self._characters * _ASTRAL_WIDTH > self._max_text_bytes:
            raise BodyTooComplex(
                f"A JSON body with emoji may have at most {self._max_text_bytes // _ASTRAL_WIDTH} characters.",
                headers=_CLOSE,
            )
        if escapes:
            self._needs_check |= b"\\ud" in part or b"\\uD" in part or part.endswith((b"\\", b"\\u"))
        if len(body) > _MAX_DIGITS:
            self._count_digits(body[start : start + _SLICE + _MAX_DIGITS])

    def _count_digits(self, part: bytes) -> None:
        """Search for a number with too many digits, and for too many digits in all, also inside strings.

        For most bodies a sparse sample rules out both.
        """
        sample = part[::_STRIDE].translate(_DIGITS)
        self._digits += sample.count(b"0") * _STRIDE
        if self._digits > _MAX_LONG_DIGITS:
            self._many_digits = True
        if _LONG_NUMBER[::_STRIDE][:-1] in sample:  # every number with too many digits has this many samples
            self._many_digits |= _LONG_NUMBER in part.translate(_DIGITS)

    def _decode_slice(self, part: bytes, start: int, *, final: bool) -> str:
        if self._decoder is None:
            if part.isascii():
                return part.decode("ascii")
            self._decoder = getincrementaldecoder("utf-8" if start else "utf-8-sig")()
        self._astral |= len(part.translate(None, _ASTRAL)) < len(part)
        try:
            return self._decoder.decode(part, final)
        except UnicodeDecodeError:
            raise InvalidJson(["body"], "The body is not UTF-8") from None

    def parse(self) -> Any:
        """Return the parsed value of the whole body."""
        text = "".join(self._text)
        self._text.clear()
        try:
            value = self._decode(text)
        except json.JSONDecodeError as error:
            # The same message as FastAPI's.
            raise InvalidJson(["body", error.pos], "JSON decode error", ctx={"error": error.msg}) from None
        except RecursionError:
            raise InvalidJson(["body"], "The JSON body is nested too deeply") from None
        if self._needs_check:
            _check_values(value)
        if self._digits > _MIN_DIGITS_TO_CHECK:
            _check_collisions(value)
        return value

    def _decode(self, text: str) -> Any:
        try:
            return (_with_limits(_raise_not_finite) if self._many_digits else _decoder).decode(text)
        except _NotFiniteError:
            self._needs_check = True
            return _with_limits(_nan).decode(text)


class _NotFiniteError(Exception):
    """The body contains NaN, Infinity, or a number with too many digits."""


def _raise_not_finite(_: str) -> float:
    raise _NotFiniteError


def _nan(_: str) -> float:
    return math.nan


_decoder = json.JSONDecoder(parse_constant=_raise_not_finite)


def _with_limits(on_unsupported: Callable[[str], float]) -> json.JSONDecoder:
    """Return a decoder that limits the digits of all long numbers together.

    It calls `on_unsupported` for NaN, infinities and single numbers with too many digits.
    """
    remaining = _MAX_LONG_DIGITS

    def limit(convert: Callable[[str], float]) -> Callable[[str], float]:
        def read(number: str) -> float:
            nonlocal remaining
            if len(number) > _MAX_DIGITS:
                return on_unsupported(number)
            if len(number) > _MAX_SHORT_DIGITS:
                remaining -= len(number)
            if remaining < 0:
                raise BodyTooComplex(
                    f"The JSON body has more than {_MAX_LONG_DIGITS} digits "
                    f"in numbers of over {_MAX_SHORT_DIGITS} digits."
                )
            return convert(number)

        return read

    return json.JSONDecoder(parse_constant=on_unsupported, parse_int=limit(int), parse_float=limit(float))


def _check_values(value: Any) -> None:
    """Raise InvalidJson for a string that UTF-8 cannot encode, or a number that is NaN."""
    # An iterator for each list and object around the current value.
    pending: list[Iterator[tuple[str | int, Any]]] = [iter([("body", value)])]
    path: list[str | int] = []  # the keys that lead to the current value
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


def _check_collisions(value: Any) -> None:
    """Raise BodyTooComplex for many integers with the same hash, which fill a set or dict in quadratic time."""
    hashes: Counter[int] = Counter()
    seen: set[str] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            pending += item
        elif (number := _large_integer(item)) is not None and (text := str(number)) not in seen:
            seen.add(text)
            hashes[hash(number)] += 1
    if hashes and max(hashes.values()) > _MAX_COLLISIONS:
        raise BodyTooComplex(f"The JSON body has more than {_MAX_COLLISIONS} large integers with the same hash.")


def _large_integer(item: Any) -> int | None:
    """Return an integer, or the integer that a string contains, if it is too large to equal its hash; else None."""
    if isinstance(item, str) and _MIN_COLLIDING_DIGITS <= len(item) <= 2 * _MAX_DIGITS:
        try:
            item = int(item)
        except ValueError:
            return None
    return item if isinstance(item, int) and abs(item) >= sys.hash_info.modulus else None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
