import asyncio
import time
import tracemalloc
from collections.abc import Iterable

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive

from chutes.exception import BodyTooLarge, UploadTimeout
from chutes.server.body import ClientLeft, check_length, in_time, json_fault, read_rest, refuse

pytestmark = pytest.mark.anyio


def coming(*chunks: bytes, then: str = "end") -> Receive:
    """A `receive` that hands out these chunks, and then ends, hangs or is disconnected."""
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if then == "end":
        messages[-1]["more_body"] = False

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        if then == "hang":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return receive


async def test_the_rest_is_read() -> None:
    assert await read_rest(coming(b"b", b"c"), b"a", limit=3) == b"abc"


@pytest.mark.parametrize(("first", "chunks"), [(b"abcd", [b"e"]), (b"a", [b"bc", b"d"]), (b"", [b"abcd"])])
async def test_more_than_the_limit_is_refused(first: bytes, chunks: Iterable[bytes]) -> None:
    with pytest.raises(BodyTooLarge) as refused:
        await read_rest(coming(*chunks), first, limit=3)
    assert refused.value.headers["Connection"] == "close"


async def test_a_client_that_stalls_or_leaves() -> None:
    for parts in ([], [b"b"]):
        receive = in_time(coming(*parts, then="hang"), within=0.05)
        with pytest.raises(UploadTimeout):
            await read_rest(receive, b"a", limit=9)
    with pytest.raises(ClientLeft):
        await read_rest(coming(b"b", then="disconnect"), b"a", limit=9)


async def test_once_the_body_is_there_no_time_runs() -> None:
    receive = in_time(coming(b"b"), within=0.05)
    assert await read_rest(receive, b"a", limit=9) == b"ab"
    await asyncio.sleep(0.1)
    assert (await receive())["type"] == "http.disconnect"


async def test_length_is_checked_before_reading() -> None:
    check_length({"headers": [(b"content-length", b"10")]}, 10)
    check_length({"headers": []}, 10)
    with pytest.raises(BodyTooLarge):
        check_length({"headers": [(b"content-length", b"11")]}, 10)


async def test_the_answer_to_a_refused_upload_is_out_before_the_connection_ends() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    began = time.monotonic()
    await refuse(PlainTextResponse("too large", 413), {"type": "http"}, coming(b"x", b"y", then="hang"), send)
    assert 0.5 < time.monotonic() - began < 3
    assert [message.get("more_body") for message in sent] == [None, True, False]
    assert sent[1]["body"] == b"too large"


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
