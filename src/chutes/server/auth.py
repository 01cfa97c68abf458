"""Authentication by API key, sent as `Authorization: Bearer`, `X-API-Key` or Basic.

Once a key exists, every path requires one, with these exceptions:

- `/health` and `/ready` are open: probes have no keys.
- `/metrics` is open to this machine, unless the request came through a proxy or from a web page. With
  `CHUTES_OPEN_METRICS` it is open to everyone.
"""

import base64
import binascii
import logging
from collections.abc import Iterable, Iterator

from starlette.types import ASGIApp, Receive, Scope, Send

from chutes.exception import BadRequest, InsecureSettings, Unauthorized
from chutes.server.body import respond_and_drain
from chutes.server.errors import from_chutes_error
from chutes.server.hosts import is_loopback
from chutes.server.keys import KeyStore, unreadable_keys
from chutes.server.origin import POLICY_VIOLATION, OriginPolicy, deny
from chutes.server.paths import METRICS_PATHS, PROBES
from chutes.server.settings import Settings

log = logging.getLogger(__name__)

_KEY_HEADERS = (b"authorization", b"x-api-key")


def key_store(settings: Settings) -> KeyStore:
    """Return the key store of these settings."""
    return KeyStore(settings.keys_file, [key.get_secret_value() for key in settings.api_keys])


def check_exposure(settings: Settings) -> None:
    """Raise InsecureSettings if the server would listen on a public address without a usable API key."""
    if settings.no_auth:
        return
    if not all(key.get_secret_value().isascii() for key in settings.api_keys):
        raise InsecureSettings(
            "CHUTES_API_KEYS contains a key that is not ASCII, which clients cannot send. Choose another key."
        )
    try:
        has_keys = bool(key_store(settings))
    except (OSError, ValueError) as error:
        raise InsecureSettings(unreadable_keys(error)) from error
    if has_keys or settings.is_loopback:
        return
    raise InsecureSettings(
        f"Other machines can reach {settings.host}, so an API key is required. Set CHUTES_API_KEYS, run "
        "`chutes keys create NAME`, or disable authentication with --no-auth."
    )


class AuthMiddleware:
    """ASGI middleware that answers 401 to requests without a valid API key."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._keys = key_store(settings)
        self._policy = OriginPolicy(settings)
        self._open_metrics = settings.open_metrics
        self._no_auth = settings.no_auth
        self._required = settings.require_key and not settings.no_auth
        self._required = self.required  # reads the keys that exist at the start

    @property
    def required(self) -> bool:
        """Whether requests need a key. Once a key has existed this stays true, even if the last one is deleted."""
        if not self._required and not self._no_auth:
            try:
                self._required = bool(self._keys)
            except (OSError, ValueError):
                log.exception("The API keys cannot be read: every request is rejected")
                self._required = True
        return self._required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with a valid key or to an open path; answer 401 or 400 otherwise."""
        if not self.required or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        headers = _key_headers(scope)
        if headers is None:
            error = BadRequest("Send the headers Authorization and X-API-Key at most once each.")
            await deny(error, scope["path"], scope, receive, send)
            return
        credentials = tuple(_credentials(headers))
        if self._is_valid(credentials):
            await self._app(scope, receive, send)
            return
        unauthorized = Unauthorized(
            "This API key is not valid." if credentials else None,
            headers={"WWW-Authenticate": _challenge(scope)},
        )
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "An API key is required."})
            return
        await respond_and_drain(from_chutes_error(scope["path"], unauthorized), scope, receive, send)

    def _is_valid(self, credentials: Iterable[str]) -> bool:
        try:
            return any(self._keys.verify(key) for key in credentials)
        except (OSError, ValueError):
            log.exception("The API keys cannot be read: every request is rejected")
            return False

    def _is_open(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
            return False
        if scope["path"] in PROBES:
            return True
        if scope["path"] in METRICS_PATHS:
            return self._open_metrics or (_is_local(scope) and self._policy.is_direct(scope))
        return False


def _is_local(scope: Scope) -> bool:
    return is_loopback((scope.get("client") or ("",))[0])


def _key_headers(scope: Scope) -> dict[bytes, str] | None:
    """Return the headers that contain keys; None if one of them occurs twice, which is ambiguous."""
    headers: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in _KEY_HEADERS:
            if name in headers:
                return None
            headers[name] = str(value, "latin-1").strip()
    return headers


def _credentials(headers: dict[bytes, str]) -> Iterator[str]:
    """Yield every string of the request that may be a key."""
    if key := headers.get(b"x-api-key"):
        yield key
    scheme, _, rest = headers.get(b"authorization", "").partition(" ")
    rest = rest.strip()
    if not rest:
        return
    if scheme.lower() == "bearer":
        yield rest
    elif scheme.lower() == "basic":
        yield rest  # the hosted platform accepts `Basic <key>` without encoding
        try:
            user, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return
        yield password or user  # for curl -u :key and curl -u key:


def _challenge(scope: Scope) -> str:
    """Return the WWW-Authenticate header. Browsers get Basic, which opens their login dialog."""
    is_page = any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
    return 'Basic realm="chutes"' if is_page else 'Bearer realm="chutes"'
