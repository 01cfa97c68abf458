"""The middleware around Ray Serve's HTTP proxy: host names, access rules, error responses and statistics.

Ray Serve's proxy calls `middleware` when it starts (see `cluster.ENVIRONMENT`). A chute is served at `/{slug}/...`, and
at every host name whose first label is its slug, such as `{slug}.localhost`.

Responses of replicas pass unchanged. Ray's own errors (full queue, lost replica, unknown path) become the same JSON
errors that `chutes run` returns. The proxy counts requests, because only the proxy sees the time that they spend in the
queue. `GET /-/chutes` returns the counts.
"""

import asyncio
import contextlib
import json
import math
import re
import time
from collections.abc import Iterable
from uuid import uuid4

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chutes.chute._handler.media import body_headers
from chutes.deploy import cluster, probes
from chutes.deploy.access_rules import AccessRulesCache
from chutes.deploy.replica import BY_HOST_HEADER, REPLICA_HEADER
from chutes.deploy.traffic import MIN_ERROR_STATUS, Traffic
from chutes.exception import ChutesError, QueueFull, RequestTimeout, Unavailable
from chutes.server import Settings
from chutes.server.access_log import REQUEST_ID_PATTERN
from chutes.server.body import ClientDisconnected, Upload, Uploads, read_body, respond_and_drain
from chutes.server.errors import error_response, from_chutes_error
from chutes.server.hosts import is_loopback
from chutes.server.in_flight import CLIENT_CLOSED_REQUEST
from chutes.server.lifecycle import RETRY_AFTER
from chutes.server.origin import OriginPolicy, Violation, deny
from chutes.server.paths import UNQUEUED

_LABEL = re.compile(r"[a-z0-9][a-z0-9-]*")
_REQUEST_ID = b"x-request-id"
_MAX_SHOWN = 100  # characters of a path that an error message repeats
_CACHE_SECONDS = 1.0  # for the slugs of the deployed chutes and the addresses of the nodes
_ROUTES_SCOPE: Scope = {  # of a request to Ray's own route for the deployed applications
    "type": "http",
    "method": "GET",
    "path": "/-/routes",
    "raw_path": b"/-/routes",
    "root_path": "",
    "query_string": b"",
    "headers": [],
    "client": None,
    "server": None,
    "http_version": "1.1",
    "scheme": "http",
}


def middleware() -> list[Middleware]:
    """Return the middleware that Ray Serve puts around its proxy."""
    return [Middleware(ProxyMiddleware)]


class ProxyMiddleware:
    """ASGI middleware around Ray Serve's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._settings = settings = Settings()
        self._uploads = Uploads(
            max_body_bytes=settings.max_body_bytes,
            timeout=settings.upload_timeout,
            min_rate=settings.min_upload_rate,
        )
        self._policy = OriginPolicy(settings)
        self._rules = AccessRulesCache(self._serve)
        self._listening_host: str | None = None
        self._slugs_read_at = -math.inf
        self._slugs: set[str] = set()
        self._nodes_read_at = -math.inf
        self._node_addresses: set[str] = set()
        self._traffic = Traffic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the origin of a request, and forward it to its chute.

        Ray's own routes, below `/-/`, are for machines of the cluster only, except for its health check.
        """
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if scope["path"].startswith("/-/"):
            if scope["path"] == cluster.PROXY_HEALTH_PATH or (
                self._policy.is_direct(scope) and await self._is_from_node(scope)
            ):
                app = JSONResponse(self._traffic.by_slug()) if scope["path"] == cluster.STATS_PATH else self._app
                await app(scope, receive, send)
                return
            scope = {**scope, "path": "/-/", "raw_path": b"/-/"}  # hide Ray's own routes from other clients: a 404
        scope = _without_by_host(scope)
        if (slug := _host_label(scope)) and slug in await self._deployed_slugs():
            scope = _route_by_host(scope, slug)
        scope = _with_request_id(scope)
        if violation := await self._find_violation(scope):
            violation.error.headers = _request_id_header(scope)
            await deny(violation.error, _chute_path(scope), scope, receive, send)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        elif any(name == b"origin" for name, _ in scope["headers"]):
            await (await self._rules.find(await self._deployed_slug(scope))).app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _find_violation(self, scope: Scope) -> Violation | None:
        """Return why a request is rejected, or None.

        Unless the proxy listens on a loopback address, only a missing or repeated `Host` is rejected. If it does, the
        chute's access rules decide about hosts and origins that the proxy's own settings do not accept.
        """
        violation = self._policy.find_violation(scope)
        if violation is None or violation.always:
            return violation
        if not await self._is_on_loopback(scope):
            return None
        rules = await self._rules.find(await self._deployed_slug(scope))
        return rules.find_violation(scope)

    async def _is_on_loopback(self, scope: Scope) -> bool:
        if self._listening_host is None:
            with contextlib.suppress(Exception):
                labels = await asyncio.to_thread(cluster.head_labels)
                self._listening_host = labels.get(cluster.HTTP_HOST_LABEL)
        host = self._listening_host or (scope.get("server") or ("",))[0]
        return is_loopback(host.strip("[]"))

    async def _is_from_node(self, scope: Scope) -> bool:
        """Return whether the client is a machine of the cluster."""
        client = (scope.get("client") or ("",))[0]
        if is_loopback(client):
            return True
        if time.monotonic() - self._nodes_read_at > _CACHE_SECONDS:
            self._nodes_read_at = time.monotonic()  # first, so that a flood of requests reads the nodes once
            self._node_addresses = await asyncio.to_thread(_read_node_addresses)
        return client in self._node_addresses

    async def _deployed_slug(self, scope: Scope) -> str:
        """Return the slug of the chute at the request's path, or an empty string if there is none."""
        slug = _slug(scope)
        return slug if slug in await self._deployed_slugs() else ""

    async def _deployed_slugs(self) -> set[str]:
        """Return the slugs of the deployed chutes from Ray's proxy, at most a second old."""
        if time.monotonic() - self._slugs_read_at > _CACHE_SECONDS:
            text = bytearray()

            async def collect(message: Message) -> None:
                text.extend(message.get("body", b""))

            async def receive_empty_body() -> Message:
                return {"type": "http.request", "body": b"", "more_body": False}

            await self._app(dict(_ROUTES_SCOPE), receive_empty_body, collect)
            with contextlib.suppress(ValueError):  # while the proxy starts or stops, keep the last answer
                self._slugs = {route.strip("/") for route in json.loads(text)}
            self._slugs_read_at = time.monotonic()
        return self._slugs

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in {"GET", "HEAD"} and (probe := await probes.answer(scope["path"])) is not None:
            await probe(scope, receive, send)
            return
        headers = body_headers(scope["headers"])
        limit = self._settings.max_body_bytes
        upload = Upload(self._uploads, receive, has_body=headers.has_body, length=headers.length, limit=limit)
        try:
            if (body := await self._read_body(upload, scope, receive, send)) is not None:
                await self._forward(body, scope, receive, send)
        finally:
            upload.release()

    async def _read_body(self, upload: Upload, scope: Scope, receive: Receive, send: Send) -> bytes | None:
        """Return the whole body, or None if the client disconnected or the body was rejected.

        A slow upload must not occupy a slot, so the proxy reads the body before Ray assigns the request to a replica.
        """
        try:
            return await read_body(upload.receive)
        except ClientDisconnected:
            return None
        except ChutesError as error:
            error.headers = {**error.headers, **_request_id_header(scope)}
            await respond_and_drain(from_chutes_error(_chute_path(scope), error), scope, receive, send)
            return None

    async def _forward(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request to Ray, and count it."""
        slug = _slug(scope)
        started = self._traffic.begin(slug)
        proxied = _ProxiedRequest(scope, body, receive, send)
        try:
            await self._app(scope, proxied.receive, proxied.send)
            await proxied.finish()
        finally:
            self._traffic.end(slug)
            if proxied.reached_chute and f"/{scope['path'].rpartition('/')[2]}" not in UNQUEUED:
                self._traffic.record(slug, started, proxied.status)


class _ProxiedRequest:
    """One request and its response. Errors of Ray itself are replaced by errors of this package.

    - `status`: the status of the response; 499 if the client disconnected before it.
    - `reached_chute`: whether a chute is deployed at the path.
    """

    def __init__(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self._receive = receive
        self._send = send
        self._started = False
        self._disconnected = False
        self._ray_error: tuple[int, dict[str, str]] | None = None  # status and headers
        self.status = CLIENT_CLOSED_REQUEST
        self.reached_chute = False

    async def receive(self) -> Message:
        """Return the body, which the proxy has already read; after that, receive from the client."""
        if self._unread:
            return self._unread.pop()
        message = await self._receive()
        self._disconnected |= message["type"] == "http.disconnect"
        return message

    async def send(self, message: Message) -> None:
        """Pass on a message of the response, unless the response is an error of Ray itself."""
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            if message["status"] >= MIN_ERROR_STATUS and not any(name == REPLICA_HEADER for name, _ in headers):
                retry_after = [value.decode() for name, value in headers if name.lower() == b"retry-after"]
                self._ray_error = (message["status"], {"Retry-After": retry_after[0]} if retry_after else {})
                return
            message["headers"] = _with_single_request_id(headers)
            self._started = self.reached_chute = True
            self.status = message["status"]
        if self._ray_error is None:
            await self._send(message)

    async def finish(self) -> None:
        """Send this package's error if Ray sent an error of its own or no response."""
        if self._started:
            return
        if self._disconnected and self._ray_error is None:
            self.reached_chute = True
            return
        ray_status, headers = self._ray_error or (500, {})
        self.reached_chute = ray_status != 404
        self.status, code, message = _translate_error(ray_status, _slug(self._scope))
        headers |= _request_id_header(self._scope)
        if self.status == 503:
            headers.setdefault("Retry-After", str(RETRY_AFTER))
        response = error_response(_chute_path(self._scope), self.status, message, code=code, headers=headers)
        await response(self._scope, self._receive, self._send)


def _translate_error(ray_status: int, slug: str) -> tuple[int, str, str]:
    """Return our status, code and message for the status of an error of Ray itself."""
    known: dict[int, type[ChutesError]] = {408: RequestTimeout, 429: QueueFull, 503: Unavailable}
    if error := known.get(ray_status):
        return error.status, error.code, error.message
    if ray_status == 404:
        return 404, "not_found", f"No chute is deployed at /{slug[:_MAX_SHOWN]}."
    return 502, "replica_lost", "The replica that ran this request was lost. Send the request again."


def _read_node_addresses() -> set[str]:
    import ray

    return {node["NodeManagerAddress"] for node in ray.nodes()}


def _chute_path(scope: Scope) -> str:
    """Return the path without the slug. The format of an error depends on it."""
    return "/" + "/".join(scope["path"].split("/")[2:])


def _slug(scope: Scope) -> str:
    return str(scope["path"].split("/", 2)[1])


def _host_label(scope: Scope) -> str | None:
    """Return the first label of the host name if it can be a slug and another label follows, else None."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    label, _, rest = host.partition(":")[0].lower().partition(".")
    return label if rest and _LABEL.fullmatch(label) and not label.isdigit() else None


def _route_by_host(scope: Scope, slug: str) -> Scope:
    """Prefix the path with the slug in the host name."""
    raw_path = scope.get("raw_path")
    return {
        **scope,
        "path": f"/{slug}{scope['path']}",
        "raw_path": raw_path and f"/{slug}".encode() + raw_path,
        "headers": [*scope["headers"], (BY_HOST_HEADER, b"1")],
    }


def _without_by_host(scope: Scope) -> Scope:
    """Remove BY_HOST_HEADER, which makes a replica leave the slug out of its URLs. Only the proxy may set it."""
    headers = [(name, value) for name, value in scope["headers"] if name != BY_HOST_HEADER]
    return scope if len(headers) == len(scope["headers"]) else {**scope, "headers": headers}


def _with_request_id(scope: Scope) -> Scope:
    """Keep the client's request id if it is valid, or else add a new one. The replica logs the same id."""
    client_ids = [value for name, value in scope["headers"] if name == _REQUEST_ID]
    if len(client_ids) == 1 and REQUEST_ID_PATTERN.fullmatch(client_ids[0]):
        return scope
    headers = [(name, value) for name, value in scope["headers"] if name != _REQUEST_ID]
    return {**scope, "headers": [*headers, (_REQUEST_ID, uuid4().hex.encode())]}


def _request_id_header(scope: Scope) -> dict[str, str]:
    return {"X-Request-ID": next(value.decode() for name, value in scope["headers"] if name == _REQUEST_ID)}


def _with_single_request_id(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Drop repeated request ids, because both the replica and Ray's proxy add one."""
    kept: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        is_repeated = name.lower() == _REQUEST_ID and any(each.lower() == _REQUEST_ID for each, _ in kept)
        if not is_repeated:
            kept.append((name, value))
    return kept
