"""The request object that a handler receives on the author's event loop."""

import asyncio

from fastapi import Request


class AuthorRequest(Request):
    """A request whose body has been read, so that the author's event loop can use it.

    `is_disconnected` runs on the server's event loop, which owns the connection.
    """

    _original: Request
    _loop: asyncio.AbstractEventLoop

    @classmethod
    async def of(cls, request: Request) -> "AuthorRequest":
        """Read the body of a request, and return a copy for the author's loop. Call this on the server's event loop."""
        copy = cls(request.scope, request.receive)
        copy._original = request
        copy._loop = asyncio.get_running_loop()
        copy._form = request._form  # noqa: SLF001 - Starlette has no public access to a parsed form
        if copy._form is None:
            copy._body = await request.body()
        return copy

    async def is_disconnected(self) -> bool:
        """Return whether the client has disconnected."""
        future = asyncio.run_coroutine_threadsafe(self._original.is_disconnected(), self._loop)
        return await asyncio.wrap_future(future)
