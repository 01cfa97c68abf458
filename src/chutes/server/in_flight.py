"""One request of a cord once its body has come, and the one place where it is decided how it ends.

The handler's task receives and sends through it. It ends when the handler has ended, when the client has left, or when
somebody ends it (the time is up, the process stops): whichever comes first, and what the handler sends after that goes
nowhere.
"""

import asyncio
import time
from http import HTTPStatus

from starlette.types import Message, Receive, Send

CLIENT_CLOSED_REQUEST = 499  # nginx's status for it, in metrics and the access log


class InFlightRequest:
    """`over` is done when the request is; `cut` is then 0, or the status that stands for why it was cut short."""

    def __init__(self, receive: Receive, send: Send, body: bytes) -> None:
        self.started_at = time.monotonic()
        self.status = int(HTTPStatus.INTERNAL_SERVER_ERROR)
        self.response_started = False
        self.abort_status = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receive = receive
        self._send = send
        self._body: bytes | None = body
        self._watcher: asyncio.Task[None] | None = None
        self._response_complete = False

    async def receive(self) -> Message:
        """What the app receives: the body once, then nothing until the request is over."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        self.watch()
        await asyncio.shield(self.done)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Pass the answer on, unless nobody waits for it any more."""
        if self.abort_status:
            return
        if message["type"] == "http.response.start":
            self.response_started = True
            self.status = message["status"]
        elif not message.get("more_body", False):
            self.close()  # the answer is complete: from here on the client may leave
        await self._send(message)

    def watch(self) -> None:
        """Begin to watch for the client's leaving; nobody else may read from the connection from now on."""
        if self._watcher is None and not self._response_complete:
            self._watcher = asyncio.ensure_future(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.end(CLIENT_CLOSED_REQUEST)

    def end(self, status: int = 0) -> None:
        """The handler has ended, or (with a status) nobody waits for it any more."""
        if not self.done.done():
            self.abort_status = status
            self.done.set_result(None)

    def close(self) -> None:
        """Stop watching, for good."""
        self._response_complete = True
        if self._watcher is not None:
            self._watcher.cancel()
