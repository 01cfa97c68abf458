"""A cord's request from arrival to answer: refused or admitted, run, timed, cancelled when nobody waits for it.

The handler runs in a task of its own, and the slot belongs to that task. When the client leaves or the time is up the
task is cancelled and the request is over at once, but the slot is free only when the handler has really ended: a thread
that still draws holds its GPU, and the next request must not join it there.
"""

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chutes.chute import Chute, Cord
from chutes.exception import BodyTooLarge, ChutesError, Draining, QueueFull, QueueTimeout, RequestTimeout
from chutes.metrics import last_request_timestamp, request_duration, total_requests
from chutes.server import metrics
from chutes.server.access import FACTS
from chutes.server.admission import Admission
from chutes.server.body import ClientLeft, check_length, in_time, read_rest, refuse
from chutes.server.errors import from_chutes_error, from_validation
from chutes.server.exchange import CLIENT_LEFT, Exchange
from chutes.server.lifecycle import Lifecycle, State
from chutes.server.settings import Settings
from chutes.server.strict_json import json_fault

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

    _Series = tuple[Counter, Histogram, Gauge]

log = logging.getLogger(__name__)

# A cord that answers GET there is a probe: never queued, never refused.
_PROBES = {(method, path) for method in ("GET", "HEAD") for path in ("/health", "/ready", "/metrics")}
_WATCH_AFTER = 0.05  # seconds; most answers are out before it is worth asking whether the client still listens


class Cords:
    """ASGI layer that sends the requests of cords through admission, and all others straight on."""

    def __init__(
        self, chute: Chute, others: ASGIApp, lifecycle: Lifecycle, admission: Admission, settings: Settings
    ) -> None:
        self._chute = chute
        self._others = RequestBodyLimitMiddleware(others, settings.max_body_bytes)
        self._chute_id = chute.uid
        self._lifecycle = lifecycle
        self._admission = admission
        self._settings = settings
        self._cords = {
            (method, cord.route_path): cord
            for cord in chute.cords
            for method in cord.route_methods
            if (method, cord.route_path) not in _PROBES
        }
        self._uploads = 0
        self._running: dict[asyncio.Task[None], Exchange] = {}
        self._series: dict[tuple[str, int], _Series] = {}  # looking them up by label is slow
        self._queue_wait = metrics.queue_wait.labels(chute.uid)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request: now, in its turn, or not at all."""
        if scope["type"] != "http":
            await self._chute(scope, receive, send)
            return
        cord = self._cords.get((scope["method"], _route_path(scope, self._chute.root_path)))
        timely = in_time(receive, self._settings.upload_timeout)
        try:
            check_length(scope, self._settings.max_body_bytes)
            if cord is None:
                await self._others(scope, timely, send)
            else:
                await self._serve(cord, scope, timely, self._with_load(send))
        except BodyTooLarge as error:
            metrics.rejections.labels(self._chute_id, error.code).inc()
            await refuse(from_chutes_error(scope["path"], error), scope, receive, send)
        except ClientLeft:
            scope[FACTS]["status"] = CLIENT_LEFT
        except asyncio.CancelledError:
            scope[FACTS]["status"] = self._given_up
            raise

    async def _serve(self, cord: Cord, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = None
        try:
            self._lifecycle.check()
            self._admission.check()
            body = await self._read(receive)
            if not cord.passthrough and _claims_json(scope) and (fault := await json_fault(body)):
                await from_validation(scope["path"], [fault])(scope, receive, send)
                return
            exchange = Exchange(receive, send, body)
            await self._wait_turn(scope, exchange)
            await self._run(cord, scope, exchange)
        except BodyTooLarge:
            raise
        except ChutesError as error:
            metrics.rejections.labels(self._chute_id, error.code).inc()
            answer = from_chutes_error(scope["path"], error)
            if exchange is None:  # the body has not come, or not all of it
                await refuse(answer, scope, receive, send)
            elif not exchange.started:  # else the connection is closed in the middle of the answer
                await answer(scope, receive, send)
        finally:
            if exchange is not None:
                exchange.close()

    async def _read(self, receive: Receive) -> bytes:
        """The body. Whoever is slow to send one holds no slot; how many do so at once is bounded like the queue."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        first: bytes = message.get("body", b"")
        limit = self._settings.max_body_bytes
        if not message.get("more_body", False) and len(first) <= limit:
            return first
        if self._uploads >= self._admission.concurrency + self._admission.queue_size:
            raise QueueFull(headers={"Retry-After": str(self._admission.retry_after)})
        self._uploads += 1
        try:
            return await read_rest(receive, first, limit)
        finally:
            self._uploads -= 1

    async def _wait_turn(self, scope: Scope, exchange: Exchange) -> None:
        """Take a slot; a client that leaves, or waits too long, is out of the line."""
        if self._admission.enter():
            self._queue_wait.observe(0)
            return
        turn = self._admission.line_up()
        arrived = time.monotonic()
        exchange.watch()
        came = False
        try:
            either: set[asyncio.Future[None]] = {turn, exchange.over}
            timeout = self._settings.queue_timeout
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            came = turn.done() and not exchange.over.done()
        finally:
            if not came:
                self._admission.give_up(turn)
            waited = time.monotonic() - arrived
            self._queue_wait.observe(waited)
            scope[FACTS]["queue_ms"] = round(waited * 1000, 2)
        if exchange.cut:
            metrics.disconnects.labels(self._chute_id, "queued").inc()
            raise ClientLeft
        if not came:
            raise QueueTimeout(headers={"Retry-After": str(self._admission.retry_after)})
        turn.result()  # a slot, or Draining

    async def _run(self, cord: Cord, scope: Scope, exchange: Exchange) -> None:
        """Run the handler in the slot just taken, until it answers, its client leaves, or its time is up."""
        exchange.began = time.monotonic()
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._chute(scope, exchange.receive, exchange.send))
        self._running[task] = exchange
        # Not a `finally` inside the task: one that is cancelled before its first step never gets there.
        task.add_done_callback(partial(self._ended, cord.name, exchange))
        watch = loop.call_later(_WATCH_AFTER, exchange.watch)
        deadline = loop.call_later(self._settings.request_timeout, exchange.end, RequestTimeout.status)
        try:
            await exchange.over
        except asyncio.CancelledError:
            exchange.cut = self._given_up
            raise
        finally:
            watch.cancel()
            deadline.cancel()
            if exchange.cut:
                task.cancel()
        if exchange.cut == CLIENT_LEFT:
            metrics.disconnects.labels(self._chute_id, "running").inc()
            raise ClientLeft
        if exchange.cut == RequestTimeout.status:
            after = f"Not done within {self._settings.request_timeout:g} seconds"
            raise RequestTimeout(after, headers={"x-should-retry": "false"})
        if exchange.cut:
            raise Draining(headers={"Connection": "close"})
        task.result()

    @property
    def _given_up(self) -> int:
        """Why the server cancels a request: it ends; or, as Ray Serve's does, because its client has left."""
        return Draining.status if self._lifecycle.state is State.DRAINING else CLIENT_LEFT

    def _ended(self, function: str, exchange: Exchange, task: asyncio.Task[None]) -> None:
        """The handler has really ended: free its slot and count it."""
        del self._running[task]
        self._admission.leave(exchange.began)
        exchange.end()
        key = function, exchange.cut or exchange.status
        series = self._series.get(key)
        if series is None:
            labels = {"chute_id": self._chute_id, "function": function}
            series = self._series[key] = (
                total_requests.labels(**labels, status=str(key[1])),
                request_duration.labels(**labels, status=str(key[1])),
                last_request_timestamp.labels(**labels),
            )
        calls, durations, latest = series
        calls.inc()
        durations.observe(time.monotonic() - exchange.began)
        latest.set(time.time())
        if exchange.cut and not task.cancelled() and (error := task.exception()):
            log.warning("%s failed after its request was over", function, exc_info=error)

    def cut_off(self) -> None:
        """End all requests that still run, now."""
        for exchange in self._running.values():
            exchange.end(Draining.status)

    def _with_load(self, send: Send) -> Send:
        """Tell on each answer how busy this chute is."""

        async def send_with_load(message: Message) -> None:
            if message["type"] == "http.response.start":
                size, used = self._admission.concurrency, self._admission.running
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-chutes-conn-used", b"%d" % used),
                    (b"x-chutes-conn-available", b"%d" % (size - used)),
                    (b"x-chutes-conn-utilization", b"%.2f" % (used / size)),
                ]
            await send(message)

        return send_with_load


def _route_path(scope: Scope, own_root: str) -> str:
    """The path that the chute's router will look for: without the root path, if it begins with that."""
    path, root = str(scope["path"]), own_root or str(scope.get("root_path", ""))
    return path[len(root) :] if path == root or path.startswith(f"{root}/") else path


def _claims_json(scope: Scope) -> bool:
    return any(name == b"content-type" and b"json" in value.lower() for name, value in scope["headers"])
