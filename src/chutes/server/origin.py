"""Protection of a server without API keys from the web pages of other sites.

Everyone who can reach such a server may use it. Only this machine can reach a loopback address, but its browser runs
pages of other sites. They can send requests to the server (cross-site request forgery, also over WebSockets). They can
read the responses if their host name resolves to 127.0.0.1 (DNS rebinding). Pages cannot forge the headers `Host`,
`Origin` and `Sec-Fetch-Site`, which reveal such requests.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from chutes.exception import BadRequest, ChutesError, HostNotAllowed, OriginNotAllowed
from chutes.server.body import respond_and_drain
from chutes.server.errors import from_chutes_error
from chutes.server.hosts import host_name, is_ip_address, is_loopback
from chutes.server.settings import Settings

_ORIGIN = re.compile(rb"https?://(.+)")
_CHECKED_HEADERS = frozenset({b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode"})
_PROXY_HEADERS = {b"forwarded", b"via", b"x-real-ip"}
_MAX_SHOWN = 100  # characters of a header that an error message repeats

POLICY_VIOLATION = 1008
"""Close code of a WebSocket that is rejected (RFC 6455, section 7.4.1)."""


@dataclass(frozen=True)
class Violation:
    """The reason why a request may be rejected; `is_rejected` decides.

    - `error`: the error for the client.
    - `always`: the request is rejected even if an API key is required.
    - `page_load`: the request opens a page, as a link does, so the other site cannot read the response.
    """

    error: ChutesError
    always: bool = False
    page_load: bool = False

    def is_rejected(self, path: str, cord_paths: tuple[str, ...], *, is_open: bool) -> bool:
        """Return whether a server rejects the request.

        A server is open if it listens on a loopback address and requires no API key. Other servers accept every origin.
        Any site may link to a page, so a request that opens one is accepted unless a cord serves its path.
        """
        # The end of the path is compared, because it may begin with a root path or, on a cluster, with the slug.
        opens_page = self.page_load and not path.endswith(cord_paths)
        return self.always or (is_open and not opens_page)


class OriginPolicy:
    """The host names of this server, and the origins whose pages may use it.

    `origins` are trusted in addition to `CHUTES_CORS_ORIGINS`.
    """

    def __init__(self, settings: Settings, origins: Iterable[str] = ()) -> None:
        self._names = {name for name in settings.allowed_hosts if not name.startswith("*")}
        self._suffixes = (".localhost", *(name[1:] for name in settings.allowed_hosts if name.startswith("*.")))
        self._every_host = "*" in settings.allowed_hosts
        self._origins = {origin.encode() for origin in (*settings.cors_origins, *origins)} - {b"*"}
        self._every_origin = "*" in settings.cors_origins
        self._is_own = lru_cache(maxsize=256)(self._is_own_host)  # most requests have the same host

    def _is_own_host(self, authority: bytes) -> bool:
        name = _host_name(authority)
        return name is not None and (is_loopback(name) or name in self._names or name.endswith(self._suffixes))

    def find_violation(self, scope: Scope, *, ip_hosts: bool = False) -> Violation | None:
        """Return why a request's `Host`, `Origin` or `Sec-Fetch-Site` is not acceptable; None if all are.

        `ip_hosts` accepts every IP address as `Host`, because DNS rebinding needs a name.
        """
        checked: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _CHECKED_HEADERS:
                if name == b"host" and name in checked:
                    return Violation(BadRequest("Send exactly one Host header; got several."), always=True)
                checked[name] = value if name not in checked else b""  # a repeated header is not trusted
        host = checked.pop(b"host", None)
        if host is None and scope.get("http_version") == "1.1":
            return Violation(BadRequest("Send a Host header; HTTP/1.1 requires it."), always=True)
        if host is not None and not (self._is_own(host) or self._every_host or (ip_hosts and _is_ip(host))):
            return Violation(_host_not_allowed(host))
        return self._find_foreign_origin(scope, host, checked) if checked else None

    def _find_foreign_origin(
        self, scope: Scope, host: bytes | None, checked: Mapping[bytes, bytes]
    ) -> Violation | None:
        origin = checked.get(b"origin")
        if origin is not None:
            return None if self._is_trusted(origin, host) else Violation(_origin_not_allowed(origin))
        if checked.get(b"sec-fetch-site") != b"cross-site" or self._every_origin:
            return None
        page_load = checked.get(b"sec-fetch-mode") == b"navigate" and scope.get("method") == "GET"
        return Violation(_origin_not_allowed(None), page_load=page_load)

    def _is_trusted(self, origin: bytes, host: bytes | None) -> bool:
        """Return whether pages of an origin may use this server, which was reached under the allowed `host`."""
        if self._every_origin or origin in self._origins:
            return True
        found = _ORIGIN.fullmatch(origin)
        if found is None:
            return False
        is_same_host = host is not None and _host_name(found[1]) == _host_name(host) is not None
        return is_same_host or self._is_own(found[1])

    def is_direct(self, scope: Scope) -> bool:
        """Return whether a request came neither through a proxy nor from a web page of another site.

        Only then is the address of the connection that of the client.
        """
        if any(name in _PROXY_HEADERS or name.startswith(b"x-forwarded-") for name, _ in scope["headers"]):
            return False
        return self.find_violation(scope, ip_hosts=True) is None


class OriginMiddleware:
    """ASGI middleware that rejects requests that violate the policy (see `Violation.is_rejected`)."""

    def __init__(
        self, app: ASGIApp, policy: OriginPolicy, cord_paths: tuple[str, ...], is_open: Callable[[], bool]
    ) -> None:
        self._app = app
        self._policy = policy
        self._cord_paths = cord_paths
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, or answer 400 or 403."""
        violation = self._policy.find_violation(scope)
        if violation and violation.is_rejected(scope["path"], self._cord_paths, is_open=self._is_open()):
            await deny(violation.error, scope["path"], scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def deny(error: ChutesError, path: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an HTTP request or a WebSocket handshake with an error, in the form that clients of the path expect."""
    if scope["type"] == "http":
        await respond_and_drain(from_chutes_error(path, error), scope, receive, send)
        return
    await receive()
    # uvicorn answers a close with 403, and logs an error if the extension is used instead.
    if error.status != HTTPStatus.FORBIDDEN and "websocket.http.response" in scope.get("extensions", {}):
        await from_chutes_error(path, error)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": type(error).message})


def _host_name(authority: bytes) -> str | None:
    return host_name(authority.decode("latin-1"))


def _is_ip(authority: bytes) -> bool:
    return is_ip_address(_host_name(authority) or "")


def _host_not_allowed(host: bytes) -> HostNotAllowed:
    return HostNotAllowed(
        f"Host {_quote(host)} is not allowed: a server without API keys answers only to localhost. "
        "Add the host to CHUTES_ALLOWED_HOSTS, or create an API key."
    )


def _origin_not_allowed(origin: bytes | None) -> OriginNotAllowed:
    if origin is None:
        return OriginNotAllowed(
            "A web page of another site may not use a server without API keys. Add the page's origin to "
            "CHUTES_CORS_ORIGINS and request with CORS (fetch, or the attribute crossorigin), or create an API key."
        )
    return OriginNotAllowed(
        f"A web page from origin {_quote(origin)} may not use a server without API keys. "
        "Add the origin to CHUTES_CORS_ORIGINS, or create an API key."
    )


def _quote(value: bytes) -> str:
    return repr(value[:_MAX_SHOWN].decode("latin-1"))
