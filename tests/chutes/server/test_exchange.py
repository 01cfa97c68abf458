import asyncio

import pytest
from starlette.types import Message

from chutes.server.exchange import CLIENT_LEFT, Exchange

pytestmark = pytest.mark.anyio


class Wire:
    """The server's side of a connection."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.sent: list[Message] = []
        self.watched = 0

    async def receive(self) -> Message:
        self.watched += 1
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


START: Message = {"type": "http.response.start", "status": 201, "headers": []}


async def test_the_body_comes_once_and_then_nothing_until_the_client_leaves() -> None:
    wire = Wire()
    exchange = Exchange(wire.receive, wire.send, b"body")
    assert await exchange.receive() == {"type": "http.request", "body": b"body", "more_body": False}
    assert wire.watched == 0
    second = asyncio.create_task(exchange.receive())
    await asyncio.sleep(0.01)
    assert not second.done()
    wire.left.set()
    assert (await second)["type"] == "http.disconnect"
    assert exchange.cut == CLIENT_LEFT


async def test_the_connection_has_one_reader() -> None:
    wire = Wire()
    exchange = Exchange(wire.receive, wire.send, b"")
    exchange.watch()
    exchange.watch()
    await asyncio.sleep(0)
    assert wire.watched == 1
    exchange.close()


async def test_what_is_sent_after_the_end_goes_nowhere() -> None:
    wire = Wire()
    exchange = Exchange(wire.receive, wire.send, b"")
    await exchange.send(START)
    assert (exchange.started, exchange.status) == (True, 201)
    exchange.end(504)
    await exchange.send({"type": "http.response.body", "body": b"late"})
    assert wire.sent == [START]
    exchange.end(CLIENT_LEFT)
    assert exchange.cut == 504  # the first reason stands


async def test_once_the_answer_is_complete_the_client_may_leave() -> None:
    wire = Wire()
    exchange = Exchange(wire.receive, wire.send, b"")
    exchange.watch()
    await exchange.send(START)
    await exchange.send({"type": "http.response.body", "body": b"all"})
    wire.left.set()
    exchange.watch()
    await asyncio.sleep(0.01)
    assert not exchange.over.done()
