"""A request in the hands of a handler, which runs on another event loop than the one that the request came in on."""

import asyncio
from typing import Any

from fastapi import Request


class AuthorsRequest(Request):
    """Has its body already, and asks on the server's loop whether the client has left."""

    _original: Request
    _loop: asyncio.AbstractEventLoop

    @classmethod
    async def of(cls, request: Request) -> "AuthorsRequest":
        """The request for the author's loop; called on the server's."""
        mine = cls(request.scope, request.receive)
        mine._original = request
        mine._loop = asyncio.get_running_loop()
        mine._form = request._form  # noqa: SLF001 - what was read of the body is kept in these two
        if mine._form is None:
            mine._body = await request.body()
        return mine

    async def is_disconnected(self) -> bool:
        """Whether the client has left."""
        asking: Any = asyncio.run_coroutine_threadsafe(self._original.is_disconnected(), self._loop)
        return bool(await asyncio.wrap_future(asking))
