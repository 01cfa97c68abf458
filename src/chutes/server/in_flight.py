"""A request of a cord, from the arrival of its body until it ends.

The handler receives and sends through this object. The request ends with whichever comes first: the handler returns,
the client disconnects, the time limit is reached, or the process stops. What the handler sends later is discarded.
"""

import asyncio
import time
from http import HTTPStatus

from starlette.types import Message, Receive, Send

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnects; for metrics and the access log only


class InFlightRequest:
    """One request, queued or running. The metric `chutes_in_flight` counts running ones only.

    - `done`: a future that is done when the request has ended.
    - `abort_status`: 0, or the HTTP status with which the request was aborted.
    - `status`, `response_started`: the status of the handler's response, and whether the response has begun.
    - `started_at`: the monotonic time at which the handler began.
    """

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
        """Return the body once; after that, wait for the end of the request and return a disconnect."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        self.watch()
        await asyncio.shield(self.done)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Pass on a message of the response, unless the request was aborted."""
        if self.abort_status:
            return
        if message["type"] == "http.response.start":
            self.response_started = True
            self.status = message["status"]
        elif not message.get("more_body", False):
            self.stop_watching()  # the response is complete, so the client may disconnect
        await self._send(message)

    def watch(self) -> None:
        """Begin to watch for a disconnect. From then on only the watcher receives from the server."""
        if self._watcher is None and not self._response_complete:
            self._watcher = asyncio.ensure_future(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.end(CLIENT_CLOSED_REQUEST)

    def end(self, status: int = 0) -> None:
        """End the request, unless it has ended. A status other than 0 aborts it with this status."""
        if not self.done.done():
            self.abort_status = status
            self.done.set_result(None)

    def stop_watching(self) -> None:
        """Stop watching for a disconnect, for good."""
        self._response_complete = True
        if self._watcher is not None:
            self._watcher.cancel()
