"""The request that a handler gets, on the author's event loop."""

import asyncio
from typing import Any

from fastapi import Request


class AuthorsRequest(Request):
    """A request whose body has been read, and which asks the server's event loop whether the client disconnected."""

    _original: Request
    _loop: asyncio.AbstractEventLoop

    @classmethod
    async def of(cls, request: Request) -> "AuthorsRequest":
        """Convert a request. Call this on the server's event loop."""
        mine = cls(request.scope, request.receive)
        mine._original = request
        mine._loop = asyncio.get_running_loop()
        mine._form = request._form  # noqa: SLF001 - where Starlette keeps what it has read
        if mine._form is None:
            mine._body = await request.body()
        return mine

    async def is_disconnected(self) -> bool:
        """Return whether the client has disconnected."""
        asking: Any = asyncio.run_coroutine_threadsafe(self._original.is_disconnected(), self._loop)
        return bool(await asyncio.wrap_future(asking))
