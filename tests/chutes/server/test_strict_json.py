import asyncio
import time
import tracemalloc

import pytest

from chutes.server.strict_json import json_fault

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"a": 1}', None),
        (b'{"a": NaN}', ("a",)),
        (b'{"a": [1, {"b": -Infinity}]}', ("a", 1, "b")),
        (b'{"a": "NaN and Infinity"}', None),
        (b"{NaN", None),
        (b"[" * 10_000 + b"NaN", None),
        (b"", None),
        (b'"\\ud83d\\ude00"', None),
        (b'["\\ud83d"]', (0,)),
        (b'{"a": "\\uDE00"}', ("a",)),
        (b'{"\\uDE00": 1}', ()),
        (b'"\\\\ud83d"', None),
        (b'{"a": {"b": {"\\uDE00": 1}}}', ("a", "b")),
        (b'[[1, 2], {"a": [], "b": {}}, [3, NaN]]', (2, 1)),
        ("\u00fc".encode(), None),
        (b"\xed\xa0\x80", ()),
    ],
)
async def test_what_pythons_parser_lets_pass(body: bytes, where: tuple[str | int, ...] | None) -> None:
    found = await json_fault(body)
    assert (found and found["loc"]) == (None if where is None else ("body", *where))


async def test_a_long_body_is_looked_through_while_others_are_answered() -> None:
    body = b"[" + b"[]," * 1_000_000 + b"NaN]"
    looking = asyncio.create_task(json_fault(body))
    waits = []
    while not looking.done():
        began = time.perf_counter()
        await asyncio.sleep(0.01)
        waits.append(time.perf_counter() - began)
    found = await looking
    assert found is not None
    assert found["loc"] == ("body", 1_000_000)
    assert len(waits) > 3


async def test_many_values_deep_down_take_little_memory() -> None:
    body = b"[" * 900 + b"1," * 20_000 + b'"NaN"' + b"]" * 900
    tracemalloc.start()
    try:
        assert await json_fault(body) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
