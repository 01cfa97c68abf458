import asyncio
import gzip
import time
import zlib
from collections.abc import Iterable

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive

from chutes.chute._handler.media import body_headers
from chutes.exception import BadRequest, BodyTooLarge, Draining, QueueFull, UnsupportedMediaType, UploadTimeout
from chutes.server.body import ClientDisconnected, Upload, Uploads, check_encoding, gunzip, read_body, respond_and_drain

pytestmark = pytest.mark.anyio

MIB = 1 << 20


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


def uploads(max_body_bytes: int = 100, timeout: float = 60, min_rate: float = 1) -> Uploads:
    return Uploads(max_body_bytes=max_body_bytes, timeout=timeout, min_rate=min_rate)


async def test_the_whole_body_is_read() -> None:
    assert await read_body(coming(b"")) == b""
    assert await read_body(coming(b"a")) == b"a"
    assert await read_body(coming(b"a", b"b", b"c")) == b"abc"
    with pytest.raises(ClientDisconnected):
        await read_body(coming(b"a", then="disconnect"))
    with pytest.raises(ClientDisconnected):
        await read_body(coming(then="disconnect"))


@pytest.mark.parametrize("chunks", [[b"abcd"], [b"abcd", b"e"], [b"a", b"bc", b"d"], [b"", b"abcd"]])
async def test_a_body_over_the_limit_is_rejected(chunks: Iterable[bytes]) -> None:
    upload = Upload(uploads(), coming(*chunks), has_body=True, length=0, limit=3)
    with pytest.raises(BodyTooLarge) as refused:
        await read_body(upload.receive)
    assert refused.value.headers["Connection"] == "close"


async def test_a_content_length_over_the_limit_is_rejected_before_reading() -> None:
    async def receive() -> Message:
        raise AssertionError

    upload = Upload(uploads(), receive, has_body=True, length=11, limit=10)
    with pytest.raises(BodyTooLarge):
        await upload.receive()
    exactly = Upload(uploads(), coming(b"x" * 10), has_body=True, length=10, limit=10)
    assert await read_body(exactly.receive) == b"x" * 10


async def test_a_client_that_stalls_is_timed_out() -> None:
    for parts in ([], [b"b"]):
        upload = Upload(uploads(timeout=0.05), coming(*parts, then="hang"), has_body=True, length=0, limit=9)
        with pytest.raises(UploadTimeout, match=r"within 0\.05 seconds"):
            await read_body(upload.receive)


async def test_a_client_below_the_minimum_rate_is_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chutes.server.body._SLOW_START", 0.05)
    upload = Upload(uploads(min_rate=10), coming(b"a", then="hang"), has_body=True, length=0, limit=9)
    with pytest.raises(UploadTimeout, match="less than 10 bytes per second"):
        await read_body(upload.receive)


async def test_time_of_the_application_does_not_count_against_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chutes.server.body._SLOW_START", 0.2)
    upload = Upload(uploads(timeout=0.2), coming(b"a", b"b", b"c"), has_body=True, length=0, limit=9)
    received = b""
    for _ in range(3):
        received += (await upload.receive())["body"]
        await asyncio.sleep(0.3)
    assert received == b"abc"


async def test_a_complete_body_has_no_timeout() -> None:
    upload = Upload(uploads(timeout=0.05), coming(b"b"), has_body=True, length=0, limit=9)
    assert await read_body(upload.receive) == b"b"
    await asyncio.sleep(0.1)
    assert (await upload.receive())["type"] == "http.disconnect"


async def test_all_bodies_together_are_bounded_until_they_are_released() -> None:
    shared = uploads(max_body_bytes=100)
    held = [Upload(shared, coming(b"x" * 100, then="hang"), has_body=True, length=0, limit=100) for _ in range(3)]
    for upload in held:
        await upload.receive()
    late = Upload(shared, coming(b"y" * 76), has_body=True, length=0, limit=100)
    with pytest.raises(QueueFull) as refused:
        await read_body(late.receive)
    assert refused.value.headers["Retry-After"]
    late.release()
    held[0].release()
    assert await read_body(Upload(shared, coming(b"y" * 100), has_body=True, length=0, limit=100).receive) == b"y" * 100
    for upload in held:
        upload.release()
    assert len(shared.incomplete) == 0


async def test_many_small_incomplete_bodies_are_accepted() -> None:
    shared = uploads(max_body_bytes=100)
    slow = [Upload(shared, coming(b"x", then="hang"), has_body=True, length=0, limit=100) for _ in range(250)]
    for upload in slow:
        await upload.receive()
    assert len(await read_body(Upload(shared, coming(b"y" * 100), has_body=True, length=0, limit=100).receive)) == 100


async def test_abort_ends_the_uploads_that_are_incomplete() -> None:
    shared = uploads()
    waiting = Upload(shared, coming(b"a", then="hang"), has_body=True, length=0, limit=9)
    task = asyncio.create_task(read_body(waiting.receive))
    between = Upload(shared, coming(b"a", b"b"), has_body=True, length=0, limit=9)
    await between.receive()
    complete = Upload(shared, coming(b"c"), has_body=True, length=0, limit=9)
    await complete.receive()
    await asyncio.sleep(0)
    shared.close(Draining())
    with pytest.raises(Draining):
        await task
    with pytest.raises(Draining):
        await between.receive()
    assert (await complete.receive())["type"] == "http.disconnect"
    assert not task.cancelled()
    late = Upload(shared, coming(b"a"), has_body=True, length=0, limit=9)
    with pytest.raises(Draining):
        await late.receive()
    without = Upload(shared, coming(b""), has_body=False, length=0, limit=9)
    assert await read_body(without.receive) == b""


async def test_a_transferred_body_counts_until_it_is_released() -> None:
    shared = uploads(max_body_bytes=100)
    upload = Upload(shared, coming(b"x" * 100), has_body=True, length=100, limit=100)
    await read_body(upload.receive)
    upload.hold(50)
    release = upload.transfer()
    upload.release()
    assert shared.held == 150
    release()
    assert shared.held == 0


async def test_a_cancelled_reader_is_cancelled() -> None:
    upload = Upload(uploads(), coming(then="hang"), has_body=True, length=0, limit=9)
    task = asyncio.create_task(read_body(upload.receive))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_gzip_is_decompressed_within_the_limit() -> None:
    assert gunzip(gzip.compress(b"x" * 100), 100) == b"x" * 100
    with pytest.raises(BodyTooLarge):
        gunzip(gzip.compress(b"x" * 101), 100)
    bomb = gzip.compress(bytes(200 * MIB), compresslevel=1)
    with pytest.raises(BodyTooLarge):
        gunzip(bomb, MIB)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        gzip.compress(b"{}")[:-4],
        gzip.compress(b"{}") + b"x",
        gzip.compress(b"") * 100_000,
        zlib.compress(b"{}"),
    ],
    ids=["plain", "truncated", "trailing byte", "many members", "zlib"],  # gzip's bytes contain the time
)
def test_a_body_that_is_not_one_gzip_member_is_rejected(body: bytes) -> None:
    with pytest.raises(BadRequest, match="gzip"):
        gunzip(body, MIB)


@pytest.mark.parametrize(
    ("values", "compressed"),
    [([], False), ([b"identity"], False), ([b"gzip"], True), ([b" GZip "], True), ([b"x-gzip"], True)],
)
def test_known_content_encodings_are_accepted(values: list[bytes], compressed: bool) -> None:
    headers = body_headers([(b"content-encoding", value) for value in values])
    assert check_encoding(headers.encoding) is compressed


@pytest.mark.parametrize("values", [[b"br"], [b"gzip, gzip"], [b"gzip", b"gzip"], [b"deflate"], [b"x" * 999]])
def test_an_unknown_content_encoding_is_rejected_by_name(values: list[bytes]) -> None:
    headers = body_headers([(b"content-encoding", value) for value in values])
    with pytest.raises(UnsupportedMediaType) as refused:
        check_encoding(headers.encoding)
    assert values[0].decode()[:50] in str(refused.value)
    assert len(str(refused.value)) < 300
    assert refused.value.headers["Accept-Encoding"] == "gzip"


async def test_the_response_to_a_rejected_upload_is_sent_before_the_connection_ends() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    started_at = time.monotonic()
    await respond_and_drain(
        PlainTextResponse("too large", 413), {"type": "http"}, coming(b"x", b"y", then="hang"), send
    )
    assert time.monotonic() - started_at > 0.5
    assert [message.get("more_body") for message in sent] == [None, True, False]
    assert sent[1]["body"] == b"too large"
