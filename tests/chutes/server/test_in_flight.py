import asyncio

import pytest
from starlette.types import Message

from chutes.server.in_flight import CLIENT_CLOSED_REQUEST, InFlightRequest

pytestmark = pytest.mark.anyio


class Wire:
    """The server's side of a connection."""

    def __init__(self) -> None:
        self.disconnected = asyncio.Event()
        self.sent: list[Message] = []
        self.watched = 0

    async def receive(self) -> Message:
        self.watched += 1
        await self.disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


START: Message = {"type": "http.response.start", "status": 201, "headers": []}


async def test_the_body_is_received_once_and_then_a_disconnect() -> None:
    wire = Wire()
    request = InFlightRequest(wire.receive, wire.send, b"body")
    assert await request.receive() == {"type": "http.request", "body": b"body", "more_body": False}
    assert wire.watched == 0
    second = asyncio.create_task(request.receive())
    await asyncio.sleep(0.01)
    assert not second.done()
    wire.disconnected.set()
    assert (await second)["type"] == "http.disconnect"
    assert request.abort_status == CLIENT_CLOSED_REQUEST


async def test_the_connection_has_one_reader() -> None:
    wire = Wire()
    request = InFlightRequest(wire.receive, wire.send, b"")
    request.watch()
    request.watch()
    await asyncio.sleep(0)
    assert wire.watched == 1
    request.stop_watching()


async def test_messages_after_the_end_are_discarded() -> None:
    wire = Wire()
    request = InFlightRequest(wire.receive, wire.send, b"")
    await request.send(START)
    assert (request.response_started, request.status) == (True, 201)
    request.end(504)
    await request.send({"type": "http.response.body", "body": b"late"})
    assert wire.sent == [START]
    request.end(CLIENT_CLOSED_REQUEST)
    assert request.abort_status == 504  # the first status is kept


async def test_a_disconnect_after_the_response_is_ignored() -> None:
    wire = Wire()
    request = InFlightRequest(wire.receive, wire.send, b"")
    request.watch()
    await request.send(START)
    await request.send({"type": "http.response.body", "body": b"all"})
    wire.disconnected.set()
    request.watch()
    await asyncio.sleep(0.01)
    assert not request.done.done()
