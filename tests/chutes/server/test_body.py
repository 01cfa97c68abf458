import asyncio
import time
from collections.abc import Iterable

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive

from chutes.exception import BodyTooLarge, UploadTimeout
from chutes.server.body import ClientLeft, check_length, in_time, read_rest, refuse

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
