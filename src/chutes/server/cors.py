"""Cross-origin resource sharing (CORS): let the web pages of other origins read answers.

The layer is outermost, so that a page can read a refusal as well (401, 413, 429, 503). It is Starlette's
`CORSMiddleware` with the origins of `CHUTES_CORS_ORIGINS`. If the author has added one to the chute, that one moves
here instead.
"""

import re
from collections.abc import Collection, Iterable
from inspect import signature
from typing import Any, cast

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chutes.chute import Chute

_OPTIONS = tuple(signature(CORSMiddleware).parameters)[1:]
_EXPOSED = {b"content-disposition", b"location", b"retry-after"}  # and all that begin with `x-`


def take_middleware(chute: Chute) -> Middleware | None:
    """Take the author's CORSMiddleware out of the chute's own stack, where only answers of the chute pass."""
    for index, each in enumerate(chute.user_middleware):
        cls: Any = each.cls
        if cls is CORSPlaceholder:
            (original,) = each.args
            return cast("Middleware", original)
        if isinstance(cls, type) and issubclass(cls, CORSMiddleware):
            chute.user_middleware[index] = Middleware(CORSPlaceholder, each)
            chute.middleware_stack = None  # so that it is built again
            return each
    return None


class CORSPlaceholder:
    """A placeholder in a chute's stack for the CORSMiddleware that the runtime applies, which it remembers."""

    def __init__(self, app: ASGIApp, original: Middleware) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        await self._app(scope, receive, send)


def from_origins(origins: Iterable[str]) -> Middleware | None:
    """Allow these origins every method and header, among them those that carry API keys; None if there are none."""
    given = list(origins)
    if not given:
        return None
    return Middleware(
        CORSMiddleware, allow_origins=given, allow_methods=["*"], allow_headers=["*"], allow_private_network=True
    )


def options(layer: Middleware) -> dict[str, Any]:
    """The options of a CORSMiddleware by their names, as JSON can say them."""
    named: dict[str, Any] = {**dict(zip(_OPTIONS, layer.args, strict=False)), **layer.kwargs}
    return {name: _plain(value) for name, value in named.items() if name in _OPTIONS}


def _plain(value: Any) -> Any:
    if isinstance(value, re.Pattern):
        return value.pattern
    return list(value) if isinstance(value, Collection) and not isinstance(value, str) else value


def explicit_origins(layer: Middleware | None) -> list[str]:
    """The origins that a CORSMiddleware names one by one: `*` and patterns name nobody in particular."""
    named = options(layer).get("allow_origins", ()) if layer else ()
    return [origin for origin in named if origin != "*"]


def wrap(app: ASGIApp, layer: Middleware | None) -> ASGIApp:
    """Put the layer around an application; as it is without one."""
    return app if layer is None else ExposeHeadersMiddleware(layer.cls(app, *layer.args, **layer.kwargs))


class ExposeHeadersMiddleware:
    """ASGI layer around CORS that lets pages read the headers that an answer has: `Retry-After`, `X-Seed`, ..."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the answer's own headers in `Access-Control-Expose-Headers`."""

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
