"""Where requests come into the cluster: host names, and errors in our shape.

Ray Serve's proxy calls `middleware` when it starts (see `cluster.ENVIRONMENT`) and puts what it returns around
itself. A chute is at `/{slug}/...`, and at the host name `{slug}.localhost` (or any other name whose first label is
its slug). What a replica answers passes through untouched; what Ray answers in its place (queue full, replica lost,
nothing there) becomes the same JSON as everywhere else. What went through is counted here, where the time spent in
the queue is seen as well: `/-/chutes` tells.
"""

import asyncio
import contextlib
import json
import math
import re
import statistics
import time
from collections import Counter, defaultdict, deque
from typing import Any
from uuid import uuid4

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chutes.chute._handler.media import body_headers
from chutes.deploy import cluster, probes
from chutes.deploy.access_rules import AccessRulesCache
from chutes.deploy.replica import BY_HOST_HEADER, REPLICA_HEADER
from chutes.exception import ChutesError
from chutes.server import Settings
from chutes.server.access_log import REQUEST_ID_PATTERN
from chutes.server.body import ClientDisconnected, Upload, Uploads, read_body, respond_and_drain
from chutes.server.errors import error_response, from_chutes_error
from chutes.server.hosts import is_loopback
from chutes.server.origin import OriginPolicy, Violation, deny
from chutes.server.paths import METRICS, PROBES

STATS_PATH = "/-/chutes"
RECENT = 300.0  # seconds for which requests are remembered

_ALIVE = "/-/healthz"  # Ray's own probe of the proxy
_MOST_RECENT = 10_000
_ERROR = 400
_RETRY_AFTER = "5"  # seconds
_UNCOUNTED = PROBES | {METRICS}
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]*")
_KNOWN_FOR = 1.0  # seconds that what is deployed is remembered
_ROUTES: Scope = {  # the question for it
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
    """What Ray Serve's proxy is to be wrapped in."""
    return [Middleware(ProxyMiddleware)]


class ProxyMiddleware:
    """ASGI layer around Ray Serve's proxy."""

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
        self._host: str | None = None  # that the cluster listens on
        self._known: tuple[float, set[str]] = (-math.inf, set())  # when, and what was deployed then
        self._in_flight: Counter[str] = Counter()
        self._recent: defaultdict[str, deque[tuple[float, float, int]]] = defaultdict(
            lambda: deque(maxlen=_MOST_RECENT)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send one request to its chute, and see to its answer."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if scope["path"].startswith("/-/"):
            if scope["path"] == _ALIVE or (self._policy.is_direct(scope) and await _from_inside(scope)):
                told = JSONResponse(self._statistics()) if scope["path"] == STATS_PATH else self._app
                await told(scope, receive, send)
                return
            scope = {**scope, "path": "/-/", "raw_path": b"/-/"}  # Ray has nothing there, for whoever asks from outside
        if (slug := _host_label(scope)) and slug in await self._slugs():
            scope = _by_host(scope, slug)
        scope = _with_id(scope)
        violation = self._policy.find_violation(scope)
        if violation is not None and (violation.always or not await self._tolerates(scope, violation)):
            violation.error.headers = _id_header(scope)
            await deny(violation.error, _inner(scope), scope, receive, send)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        elif any(name == b"origin" for name, _ in scope["headers"]):
            await (await self._rules.find(await self._deployed(scope))).app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _tolerates(self, scope: Scope, violation: Violation) -> bool:
        """Whether a request may pass in spite of its origin: it does on an open address, or to a chute with keys."""
        if self._host is None:
            with contextlib.suppress(Exception):
                self._host = (await asyncio.to_thread(cluster.head_labels)).get(cluster.HTTP_HOST)
        host = self._host or (scope.get("server") or ("",))[0]
        if not is_loopback(host.strip("[]")):
            return True
        return (await self._rules.find(await self._deployed(scope))).tolerates(scope, violation)

    async def _deployed(self, scope: Scope) -> str:
        """The slug of the chute that is asked; empty if there is none."""
        slug = _slug(scope)
        return slug if slug in await self._slugs() else ""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET" and (probed := await probes.answer(scope["path"])) is not None:
            await probed(scope, receive, send)
            return
        headers = body_headers(scope["headers"])
        limit = self._settings.max_body_bytes
        upload = Upload(self._uploads, receive, announced=headers.announced, length=headers.length, limit=limit)
        try:
            if (body := await self._body(upload, scope, receive, send)) is not None:
                await self._forward(body, scope, receive, send)
        finally:
            upload.release()

    async def _forward(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Have Ray answer a request, and count it."""
        slug, began = _slug(scope), time.time()
        self._in_flight[slug] += 1
        answer = _Answer(scope, send)
        try:
            await self._app(scope, answer.given(body, receive), answer.send)
            await answer.close(receive)
        finally:
            self._in_flight[slug] -= 1
            if not self._in_flight[slug]:
                del self._in_flight[slug]
            if answer.of_a_chute and f"/{scope['path'].rpartition('/')[2]}" not in _UNCOUNTED:
                self._recent[slug].append((began, time.time() - began, answer.status))

    async def _body(self, upload: Upload, scope: Scope, receive: Receive, send: Send) -> bytes | None:
        """Return the whole body, before Ray gives the request a slot; None if the client left or was refused."""
        try:
            return await read_body(upload.receive)
        except ClientDisconnected:
            return None
        except ChutesError as error:
            error.headers = {**error.headers, **_id_header(scope)}
            await respond_and_drain(from_chutes_error(_inner(scope), error), scope, receive, send)
            return None

    async def _slugs(self) -> set[str]:
        """What is deployed, as Ray's own proxy knew it within the last second."""
        asked, slugs = self._known
        if time.monotonic() - asked > _KNOWN_FOR:
            text = bytearray()

            async def collect(message: Message) -> None:
                text.extend(message.get("body", b""))

            async def nothing() -> Message:
                return {"type": "http.request", "body": b"", "more_body": False}

            await self._app(dict(_ROUTES), nothing, collect)
            with contextlib.suppress(ValueError):  # the proxy is about to start or to stop: as before
                slugs = {route.strip("/") for route in json.loads(text)}
            self._known = time.monotonic(), slugs
        return slugs

    def _statistics(self) -> dict[str, dict[str, Any]]:
        """By slug: how many requests are in flight, waiting ones included, and what the last minutes were like."""
        since = time.time() - RECENT
        told = {}
        for slug in {*self._in_flight, *self._recent}:
            recent = [each for each in self._recent.get(slug, ()) if each[0] + each[1] >= since]
            told[slug] = {"in_flight": self._in_flight[slug], **summary(recent, min(RECENT, time.time() - _STARTED))}
        return told


def summary(recent: list[tuple[float, float, int]], seconds: float) -> dict[str, Any]:
    """Requests of so many seconds, each with its begin, duration and status, in stats. Latencies of answered ones."""
    taken = sorted(duration for _, duration, status in recent if status < _ERROR)
    points = statistics.quantiles(taken, n=100, method="inclusive") if len(taken) > 1 else taken * 99
    return {
        "requests": len(recent),
        "per_minute": round(len(recent) * 60 / max(seconds, 1.0), 2),
        "errors": sum(status >= 500 for *_, status in recent),
        "rejected": sum(status == 429 for *_, status in recent),
        "left": sum(status == 499 for *_, status in recent),
        "latency_seconds": {f"p{at}": round(points[at - 1], 3) for at in (50, 95, 99)} if points else {},
    }


_STARTED = time.time()


class _Answer:
    """One answer on its way out: the replica's as it is, Ray's own in our words."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._started = False
        self._instead: tuple[int, dict[str, str]] | None = None
        self.status = 499  # the client left before there was an answer
        self.of_a_chute = False
        self._left = False

    def given(self, body: bytes, receive: Receive) -> Receive:
        """A `receive` of the body, which has come, and then of the client's leaving."""
        come: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            if come:
                return come.pop()
            message = await receive()
            self._left |= message["type"] == "http.disconnect"
            return message

        return receive_again

    async def send(self, message: Message) -> None:
        """Pass a message on, or hold it back when it is Ray's own error."""
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            if message["status"] >= _ERROR and not any(name == REPLICA_HEADER for name, _ in headers):
                after = [value.decode() for name, value in headers if name.lower() == b"retry-after"]
                self._instead = (message["status"], {"Retry-After": after[0]} if after else {})
                return
            message["headers"] = _once(headers)
            self._started = self.of_a_chute = True
            self.status = message["status"]
        if self._instead is None:
            await self._send(message)

    async def close(self, receive: Receive) -> None:
        """Answer in Ray's place if it did not, or not in our words."""
        if self._started:
            return
        if self._left and self._instead is None:
            self.of_a_chute = True
            return
        status, headers = self._instead or (500, {})
        headers |= _id_header(self._scope)
        self.of_a_chute = status != 404
        status, code, text = _in_our_words(status)
        if status == 503:
            headers.setdefault("Retry-After", _RETRY_AFTER)
        self.status = status
        response = error_response(_inner(self._scope), status, text, code=code, headers=headers)
        await response(self._scope, receive, self._send)


async def _from_inside(scope: Scope) -> bool:
    """Whether it is a machine of the cluster that asks: what goes on in it concerns nobody else."""
    import ray

    client = (scope.get("client") or ("",))[0]
    if is_loopback(client):
        return True
    nodes = await asyncio.to_thread(ray.nodes)
    return client in {node["NodeManagerAddress"] for node in nodes}


_ID = b"x-request-id"

_WORDS = {
    404: (404, "not_found", "There is nothing here"),
    408: (504, "timeout", "The request took too long and was cancelled"),
    429: (429, "queue_full", "Too many requests are waiting already, try again later"),
    503: (503, "unavailable", "Temporarily unavailable, try again later"),
}


def _in_our_words(status: int) -> tuple[int, str, str]:
    """Ray's status as ours, with code and text. Whatever else it is, the replica went away during the request."""
    return _WORDS.get(status, (502, "replica_lost", "The replica that ran this request was lost, send it again"))


def _inner(scope: Scope) -> str:
    """The path as the chute knows it, which decides on the shape of an error."""
    return "/" + "/".join(scope["path"].split("/")[2:])


def _slug(scope: Scope) -> str:
    return str(scope["path"].split("/", 2)[1])


def _host_label(scope: Scope) -> str | None:
    """The host's first label, if it is followed by another and may be a slug."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    label, _, rest = host.partition(":")[0].lower().partition(".")
    return label if rest and _LABEL.fullmatch(label) and not label.isdigit() else None


def _by_host(scope: Scope, slug: str) -> Scope:
    """The path with the slug of the host's name in front."""
    headers = [(name, value) for name, value in scope["headers"] if name != BY_HOST_HEADER]
    raw_path = scope.get("raw_path")
    return {
        **scope,
        "path": f"/{slug}{scope['path']}",
        "raw_path": raw_path and f"/{slug}".encode() + raw_path,
        "headers": [*headers, (BY_HOST_HEADER, b"1")],
    }


def _with_id(scope: Scope) -> Scope:
    """The client's own request id if it is short and plain, else a new one: the one that the replica will log."""
    given = [value for name, value in scope["headers"] if name == _ID]
    if len(given) == 1 and REQUEST_ID_PATTERN.fullmatch(given[0]):
        return scope
    headers = [(name, value) for name, value in scope["headers"] if name != _ID]
    return {**scope, "headers": [*headers, (_ID, uuid4().hex.encode())]}


def _id_header(scope: Scope) -> dict[str, str]:
    return {"X-Request-ID": next(value.decode() for name, value in scope["headers"] if name == _ID)}


def _once(headers: Any) -> list[tuple[bytes, bytes]]:
    """The replica and the proxy both send the request's id: one is enough."""
    seen: set[bytes] = set()
    kept = []
    for name, value in headers:
        if name.lower() == _ID:
            if _ID in seen:
                continue
            seen.add(_ID)
        kept.append((name, value))
    return kept
