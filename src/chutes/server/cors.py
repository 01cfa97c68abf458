"""Cross-origin resource sharing (CORS), which lets web pages of other origins read responses.

Starlette's `CORSMiddleware` is the outermost middleware, so that pages can also read errors (401, 413, 429, 503). Its
origins are those of `CHUTES_CORS_ORIGINS`. If the author added a `CORSMiddleware` to the chute, that one is moved here.
"""

import re
from collections.abc import Collection, Iterable
from inspect import signature
from typing import Any, cast

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chutes.chute import Chute

_OPTIONS = tuple(signature(CORSMiddleware).parameters)[1:]  # without `app`
_EXPOSED = {b"content-disposition", b"location", b"retry-after"}  # and all that start with `x-`


def take_middleware(chute: Chute) -> Middleware | None:
    """Remove the author's CORSMiddleware from the chute and return it; None if there is none.

    Inside the chute it would not apply to the server's own error responses.
    """
    for index, each in enumerate(chute.user_middleware):
        cls: Any = each.cls
        if cls is CORSPlaceholder:
            (original,) = each.args
            return cast("Middleware", original)
        if isinstance(cls, type) and issubclass(cls, CORSMiddleware):
            chute.user_middleware[index] = Middleware(CORSPlaceholder, each)
            chute.middleware_stack = None  # Starlette builds it again
            return each
    return None


class CORSPlaceholder:
    """A placeholder in a chute's middleware that remembers the CORSMiddleware that was moved."""

    def __init__(self, app: ASGIApp, original: Middleware) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on every message."""
        await self._app(scope, receive, send)


def from_origins(origins: Iterable[str]) -> Middleware | None:
    """Return a CORSMiddleware that allows these origins every method and header; None without origins."""
    allowed = list(origins)
    if not allowed:
        return None
    return Middleware(
        CORSMiddleware, allow_origins=allowed, allow_methods=["*"], allow_headers=["*"], allow_private_network=True
    )


def options(middleware: Middleware) -> dict[str, Any]:
    """Return the options of a CORSMiddleware by name, as JSON values."""
    values: dict[str, Any] = {**dict(zip(_OPTIONS, middleware.args, strict=False)), **middleware.kwargs}
    return {name: _plain(value) for name, value in values.items() if name in _OPTIONS}


def _plain(value: Any) -> Any:
    if isinstance(value, re.Pattern):
        return value.pattern
    return list(value) if isinstance(value, Collection) and not isinstance(value, str) else value


def explicit_origins(middleware: Middleware | None) -> list[str]:
    """Return the origins that a CORSMiddleware lists, without `*` and patterns."""
    origins = options(middleware).get("allow_origins", ()) if middleware else ()
    return [origin for origin in origins if origin != "*"]


def wrap(app: ASGIApp, middleware: Middleware | None) -> ASGIApp:
    """Return the application inside a CORSMiddleware, or unchanged without one."""
    return (
        app
        if middleware is None
        else ExposeHeadersMiddleware(middleware.cls(app, *middleware.args, **middleware.kwargs))
    )


class ExposeHeadersMiddleware:
    """ASGI middleware that lets pages read the headers of a response, such as `Retry-After` and `X-Seed`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the names of the response's headers to `Access-Control-Expose-Headers`."""

        async def send_exposed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _expose(message.get("headers", ()))
            await send(message)

        await self._app(scope, receive, send_exposed if scope["type"] == "http" else send)


def _expose(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept: list[tuple[bytes, bytes]] = []
    names: dict[bytes, None] = {}
    vary: dict[bytes, None] = {}
    allowed = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"access-control-expose-headers":
            names |= dict.fromkeys(_split(value))
            continue
        if lower == b"vary":
            vary |= dict.fromkeys(_split(value))
            continue
        if lower in _EXPOSED or lower.startswith(b"x-"):
            names[lower.title()] = None
        allowed |= lower == b"access-control-allow-origin"
        kept.append((name, value))
    if vary:
        kept.append((b"vary", b", ".join(vary)))
    if allowed and names:
        kept.append((b"access-control-expose-headers", b", ".join(names)))
    return kept


def _split(value: bytes) -> list[bytes]:
    return [each.strip() for each in value.split(b",") if each.strip()]
