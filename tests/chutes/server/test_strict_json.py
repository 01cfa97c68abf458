import asyncio
import json
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes.exception import BodyTooComplex
from chutes.server.strict_json import InvalidJson, parse_json

pytestmark = pytest.mark.anyio

MAX_VALUES = 50_000
MIB = 1 << 20
MAX_TEXT_BYTES = 96 * MIB


async def fault(body: bytes) -> tuple[str | int, ...] | None:
    """Return where a body is not JSON, or None if it is."""
    try:
        await parse_json(body, MAX_VALUES, MAX_TEXT_BYTES)
    except InvalidJson as error:
        return tuple(error.error["loc"])
    return None


@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b'{"a": 1}', None),
        (b'{"a": NaN}', ("a",)),
        (b'{"a": [1, {"b": -Infinity}]}', ("a", 1, "b")),
        (b'{"a": "NaN and Infinity"}', None),
        (b"{NaN", (1,)),
        (b"[NaN, }", (6,)),
        (b"[NaN" + b"[" * 10_000, (4,)),
        (b"[NaN, " + b"[" * 10_000, ()),
        (b"[NaN, " + b"9" * 641 + b"]", (0,)),
        (b"[" * 10_000 + b"NaN", ()),
        (b"", (0,)),
        (b'"\\ud83d\\ude00"', None),
        (b'["\\ud83d"]', (0,)),
        (b'{"a": "\\uDE00"}', ("a",)),
        (b'{"\\uDE00": 1}', ()),
        (b'"\\\\ud83d"', None),
        (b'{"a": {"b": {"\\uDE00": 1}}}', ("a", "b")),
        (b'[[1, 2], {"a": [], "b": {}}, [3, NaN]]', (2, 1)),
        ("\u00fc".encode(), (0,)),
        ('"\u00fc"'.encode(), None),
        (b"\xed\xa0\x80", ()),
        (b'"' + b"a" * (MIB - 2) + "\u20ac".encode() + b'"', None),
        (b'"' + b"a" * (MIB - 2) + b'\xe2\x82"', ()),
        ('{"a": NaN}'.encode("utf-16-le"), ()),
        ('{"a": 1}'.encode("utf-32-be"), ()),
        (b'"a\x00b"', ()),
        (b'{"a": ' + b"9" * 640 + b"}", None),
        (b'{"a": ' + b"9" * 641 + b"}", ("a",)),
        (b'{"a": "' + b"9" * 641 + b'"}', None),
        (b'{"a": "' + b"9" * 641 + b'", "b": 1, "c": 1.5}', None),
        (b'{"a": [0.' + b"3" * 641 + b"]}", ("a", 0)),
        (b'{"a": 1e' + b"3" * 641 + b"}", ("a",)),
        (b" " * (MIB - 100) + b'{"a": ' + b"9" * 641 + b"}", ("a",)),
        (b'{"a": "\\"', (6,)),
        (b'{"a": 1', (7,)),
    ],
)
async def test_an_error_names_the_position_of_invalid_json(body: bytes, position: tuple[str | int, ...] | None) -> None:
    assert await fault(body) == (None if position is None else ("body", *position))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=20))
async def test_the_value_equals_that_of_pythons_parser(value: object) -> None:
    text = json.dumps(value)
    if any(word in text for word in ("NaN", "Infinity")):
        return
    try:
        parsed = await parse_json(text.encode(), MAX_VALUES, MAX_TEXT_BYTES)
    except InvalidJson:
        assert "\\ud" in text
    else:
        assert parsed == json.loads(text)


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1," * MAX_VALUES + b"1]",
        b"[" * 900 + b"]" * 900 + (b"," + b"[" * 900 + b"]" * 900) * 9000,
        b'{"k":1,' * 3_000_000,
        b'"' + b"\\n" * (MAX_VALUES * 20 + 1) + b'"',
        b'"' + b"\\u0041" * (8 * MIB),
        b'{"a":"NaN' + b'\\"' * (16 * MIB),
        b'{"a":"' + b":" * (16 * MIB),
    ],
)
async def test_a_body_with_too_many_values_is_rejected_unparsed(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooComplex):
            await parse_json(body, MAX_VALUES, MAX_TEXT_BYTES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


@pytest.mark.parametrize(
    "make",
    [
        lambda n: b'{"a":"NaN' + b'\\"' * (n // 64) + b"x" * n,
        lambda n: b'{"a":"' + b"NaN" * (n // 3) + b'"}',
        lambda n: b'{"a":"' + b"N" * n + b'"}',
        lambda n: b'{"a":"' + (b"9" * 640 + b" ") * (n // 641) + b'"}',
        lambda n: b'{"a":"' + b"9" * n + b'"}',
        lambda n: b'{"a":' + b"9" * n + b"}",
        lambda n: b'{"a":' + b" " * n + b"NaN}",
        lambda n: b'{"a":"' + b"\\ud800" * (n // 64) + b'"}',
        lambda n: b'{"a":"' + b"\\" * (n // 64),
        lambda n: b'{"a":"' + "\u8a9e".encode() * (n // 3) + b'"}',
    ],
    ids=range(10),
)
async def test_parsing_time_is_linear(make: Callable[[int], bytes]) -> None:
    # Quadratic time would be hours here.
    body = make(32 * MIB)
    started_at = time.process_time()
    await asyncio.gather(parse_json(body, MAX_VALUES, MAX_TEXT_BYTES), return_exceptions=True)
    assert time.process_time() - started_at < 30


async def test_one_emoji_does_not_multiply_the_memory_of_a_large_body() -> None:
    large = b'"' + b"a" * (25 * MIB) + "\U0001f600".encode() + b'"'
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooComplex, match="emoji"):
            await parse_json(large, MAX_VALUES, MAX_TEXT_BYTES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(large)
    allowed = b'"' + b"a" * (20 * MIB) + "\U0001f600".encode() + b'"'
    assert len(await parse_json(allowed, MAX_VALUES, MAX_TEXT_BYTES)) == 20 * MIB + 1
    bmp = b'"' + b"a" * (60 * MIB) + "\u8a9e".encode() + b'"'
    assert len(await parse_json(bmp, MAX_VALUES, MAX_TEXT_BYTES)) == 60 * MIB + 1


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b",".join([b"9" * 640] * 1600) + b"]",
        b"[" + b",".join([b"0." + b"3" * 600] * 40_000) + b"]",
        b"[NaN," + b",".join([b"9" * 640] * 1600) + b"]",
    ],
    ids=range(3),
)
async def test_all_long_numbers_together_are_bounded(body: bytes) -> None:
    with pytest.raises(BodyTooComplex, match="digits"):
        await parse_json(body, MAX_VALUES, MAX_TEXT_BYTES)


async def test_many_digits_in_short_numbers_are_accepted() -> None:
    for value in (["9" * 600] * 4000, [10**38] * 49_000, [0.1234567890123456] * 49_000):
        assert await parse_json(json.dumps(value).encode(), MAX_VALUES, MAX_TEXT_BYTES) == value


async def test_other_tasks_run_while_a_long_body_is_scanned() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await parse_json(b'"' + b"a" * (16 * MIB) + b'"', MAX_VALUES, MAX_TEXT_BYTES)
    counting.cancel()
    assert turns >= 16


async def test_many_nested_values_take_little_memory() -> None:
    body = b"[" * 900 + b"1," * 20_000 + b'"\\ud83d\\ude00"' + b"]" * 900
    tracemalloc.start()
    try:
        await parse_json(body, MAX_VALUES, MAX_TEXT_BYTES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
