"""A client for ASGI applications that can stall, disconnect, and keep a body open."""

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message

from benchmarks.harness.waiting import LIMIT
from chutes.server.access_log import LOG_CONTEXT


class Call:
    """One request to an application, and its response."""

    def __init__(self, app: ASGIApp, path: str, *, method: str = "POST", headers: dict[str, str] | None = None) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        body = {"content-type": "application/json", "transfer-encoding": "chunked"} if method == "POST" else {}
        sent = {**body, **(headers or {})}
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            LOG_CONTEXT: {},
        }
        self.task = asyncio.create_task(app(self.scope, self._receive, self._send))  # type: ignore[arg-type]

    def send(self, body: bytes = b"", *, more: bool = False) -> "Call":
        """Send the body, or a part of it if `more` follows."""
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})
        return self

    def disconnect(self) -> None:
        """Close the connection."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def _receive(self) -> Message:
        if self.complete:
            return {"type": "http.disconnect"}
        return await self._incoming.get()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert not self.status, "answered twice"
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)

    async def end(self) -> "Call":
        """Wait until the application has returned."""
        async with asyncio.timeout(LIMIT):
            await self.task
        return self

    def json(self) -> Any:
        """Return the response's body."""
        return json.loads(self.body)


async def until(condition: Any) -> None:
    """Let the loop run until the condition is true."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 - the conditions have no events
            await asyncio.sleep(0.005)
