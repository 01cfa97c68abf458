"""A cord's request from arrival to answer: refused or admitted, run, timed, cancelled when nobody waits for it.

The handler runs in a task of its own, and the slot belongs to that task. When the client leaves or the time is up the
task is cancelled and the request is over at once, but the slot is free only when the handler has really ended: a thread
that still draws holds its GPU, and the next request must not join it there.
"""

import asyncio
import logging
import time
from functools import partial
from http.client import INTERNAL_SERVER_ERROR
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chutes.chute import Chute, Cord, Job
from chutes.chute._handler.media import URL_ENCODED, BodyHeaders, body_headers
from chutes.chute._routing.route import PARSED_JSON
from chutes.exception import ChutesError, Draining, QueueTimeout, RequestTimeout
from chutes.metrics import last_request_timestamp, request_duration, total_requests
from chutes.server import metrics
from chutes.server.access_log import LOG_CONTEXT
from chutes.server.admission import Admission
from chutes.server.body import (
    UPLOAD,
    ClientDisconnected,
    Upload,
    Uploads,
    check_encoding,
    gunzip,
    read_body,
    respond_and_drain,
)
from chutes.server.errors import from_chutes_error, from_validation
from chutes.server.forms import check_form
from chutes.server.in_flight import CLIENT_CLOSED_REQUEST, InFlightRequest
from chutes.server.lifecycle import Lifecycle, State
from chutes.server.paths import JOBS, METRICS, PROBES
from chutes.server.settings import Settings
from chutes.server.strict_json import InvalidJson, parse_json

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

    _Series = tuple[Counter, Histogram, Gauge]

log = logging.getLogger(__name__)

# A cord that answers GET at these paths is a probe: it is never queued and never rejected.
_UNQUEUED = {(method, path) for method in ("GET", "HEAD") for path in PROBES | {METRICS}}
_WATCH_AFTER = 0.05  # seconds; most answers are out before it is worth asking whether the client still listens


class CordMiddleware:
    """ASGI layer that sends the requests of cords through admission, and all others straight on."""

    def __init__(
        self, chute: Chute, others: ASGIApp, lifecycle: Lifecycle, admission: Admission, settings: Settings
    ) -> None:
        self._chute = chute
        self._others = others
        self._chute_id = chute.uid
        self._lifecycle = lifecycle
        self._admission = admission
        self._settings = settings
        self._cords = {
            (method, cord.route_path): cord
            for cord in chute.cords
            for method in cord.route_methods
            if (method, cord.route_path) not in _UNQUEUED
        }
        self._jobs = {f"{JOBS}/{job.name}": job for job in chute.jobs}
        self.uploads = Uploads(
            max_body_bytes=settings.max_body_bytes,
            timeout=settings.upload_timeout,
            min_rate=settings.min_upload_rate,
        )
        self._one_gunzip = asyncio.Semaphore(1)  # what is decompressed is counted only afterwards
        self._running: dict[asyncio.Task[None], InFlightRequest] = {}
        self._series: dict[tuple[str, int], _Series] = {}  # looking them up by label is slow
        self._queue_wait = metrics.queue_wait.labels(chute.uid)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request: now, in its turn, or not at all."""
        if scope["type"] != "http":
            await self._chute(scope, receive, send)
            return
        path = _route_path(scope, self._chute.root_path)
        cord = self._cords.get((scope["method"], path))
        target = cord or (self._jobs.get(path) if scope["method"] == "POST" else None)
        headers = body_headers(scope["headers"])
        scope[UPLOAD] = upload = Upload(
            self.uploads,
            receive,
            announced=headers.announced,
            length=headers.length,
            limit=self._max_body_bytes(target),
        )
        request: InFlightRequest | None = None
        try:
            if cord is None:
                await self._pass_on(target, scope, headers, upload, send)
            else:
                send = self._with_load(send)
                request = await self._accept(cord, scope, headers, upload, send)
                await self._wait_for_slot(scope, request)
                upload.release()
                await self._run(cord, scope, request)
        except (ChutesError, InvalidJson) as error:
            upload.release()
            # The frames of its traceback hold what was received so far.
            error = error.with_traceback(None)
            if request is None and not upload.complete:
                await respond_and_drain(self._answer(error, scope), scope, receive, send)
            elif request is None or not request.response_started:
                await self._answer(error, scope)(scope, receive, send)
            elif isinstance(error, ChutesError):  # the connection is closed in the middle of the answer
                scope[LOG_CONTEXT]["status"] = error.status
        except ClientDisconnected:
            scope[LOG_CONTEXT]["status"] = CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            scope[LOG_CONTEXT]["status"] = self._given_up
            raise
        finally:
            upload.release()
            del scope[
                UPLOAD
            ]  # it holds the connection, which holds the scope: only the garbage collector would free them
            if request is not None:
                request.close()

    def _max_body_bytes(self, target: Cord | Job | None) -> int:
        limit = self._settings.max_body_bytes
        return min(limit, target.max_body_bytes or limit) if target is not None else limit

    async def _accept(
        self, cord: Cord, scope: Scope, headers: BodyHeaders, upload: Upload, send: Send
    ) -> InFlightRequest:
        """Check a request of a cord, and read its body."""
        self._lifecycle.check()
        if cord.passthrough:
            self._admission.check()
            return InFlightRequest(upload.receive, send, await read_body(upload.receive))
        headers.check_media_type(cord.body_kind)
        compressed = headers.announced and check_encoding(headers.encoding)
        self._admission.check()
        body = await self._read(cord, scope, upload, headers, compressed=compressed)
        return InFlightRequest(upload.receive, send, body)

    async def _pass_on(
        self, target: Cord | Job | None, scope: Scope, headers: BodyHeaders, upload: Upload, send: Send
    ) -> None:
        """Send a request to the runtime's own routes or the author's others; JSON and URL-encoded forms are checked."""
        receive = upload.receive
        if headers.announced and (headers.is_json or headers.media_type == URL_ENCODED):
            compressed = check_encoding(headers.encoding)
            body: bytes | None = await self._read(target, scope, upload, headers, compressed=compressed)

            async def receive_again() -> Message:
                nonlocal body
                if body is None:
                    return await upload.receive()
                message = {"type": "http.request", "body": body, "more_body": False}
                body = None
                return message

            receive = receive_again
        await self._others(scope, receive, send)

    async def _read(
        self, target: Cord | Job | None, scope: Scope, upload: Upload, headers: BodyHeaders, *, compressed: bool
    ) -> bytes:
        """Return the body without its content encoding; JSON is parsed into the scope, forms are checked."""
        body = await read_body(upload.receive)
        if compressed and body:
            async with self._one_gunzip:
                body = await asyncio.to_thread(gunzip, body, self._max_body_bytes(target))
                upload.hold(len(body))
            others = [pair for pair in scope["headers"] if pair[0] not in {b"content-encoding", b"content-length"}]
            scope["headers"] = [*others, (b"content-length", b"%d" % len(body))]
        if body and not headers.is_json:
            await check_form(body, headers.media_type)
        elif body:
            upload.hold(len(body))  # by its value, which takes about as much
            most = (target.max_json_values if target is not None else None) or self._settings.max_json_values
            scope[PARSED_JSON] = await parse_json(body, most, self._settings.max_body_bytes * 3 // 2)
        return body

    def _answer(self, error: ChutesError | InvalidJson, scope: Scope) -> Response:
        if isinstance(error, InvalidJson):
            return from_validation(scope["path"], [error.error])
        metrics.rejections.labels(self._chute_id, error.code).inc()
        return from_chutes_error(scope["path"], error)

    async def _wait_for_slot(self, scope: Scope, request: InFlightRequest) -> None:
        """Take a slot; a client that leaves, or waits too long, is out of the line."""
        if self._admission.acquire():
            self._queue_wait.observe(0)
            return
        waiter = self._admission.enqueue()
        arrived = time.monotonic()
        request.watch()
        came = False
        try:
            either: set[asyncio.Future[None]] = {waiter, request.done}
            timeout = self._settings.queue_timeout
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            came = waiter.done() and not request.done.done()
        finally:
            if not came:
                self._admission.withdraw(waiter)
            waited = time.monotonic() - arrived
            self._queue_wait.observe(waited)
            scope[LOG_CONTEXT]["queue_ms"] = round(waited * 1000, 2)
        if request.abort_status:
            metrics.disconnects.labels(self._chute_id, "queued").inc()
            raise ClientDisconnected
        if not came:
            raise QueueTimeout(headers={"Retry-After": str(self._admission.retry_after)})
        waiter.result()  # a slot, or Draining

    async def _run(self, cord: Cord, scope: Scope, request: InFlightRequest) -> None:
        """Run the handler in the slot just taken, until it answers, its client leaves, or its time is up."""
        request.started_at = time.monotonic()
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._chute(scope, request.receive, request.send))
        self._running[task] = request
        # Not a `finally` inside the task: one that is cancelled before its first step never gets there.
        task.add_done_callback(partial(self._ended, cord.name, request))
        watch = loop.call_later(_WATCH_AFTER, request.watch)
        deadline = loop.call_later(self._settings.request_timeout, request.end, RequestTimeout.status)
        try:
            await request.done
        except asyncio.CancelledError:
            request.abort_status = self._given_up
            raise
        finally:
            watch.cancel()
            deadline.cancel()
            if request.abort_status:
                task.cancel()
        if request.abort_status == CLIENT_CLOSED_REQUEST:
            metrics.disconnects.labels(self._chute_id, "running").inc()
            raise ClientDisconnected
        if request.abort_status == RequestTimeout.status:
            after = f"Not done within {self._settings.request_timeout:g} seconds"
            raise RequestTimeout(after, headers={"x-should-retry": "false"})
        if request.abort_status:
            raise Draining(headers={"Connection": "close"})
        task.result()

    @property
    def _given_up(self) -> int:
        """Why the server cancels a request: it ends; or, as Ray Serve's does, because its client has left."""
        return Draining.status if self._lifecycle.state is State.DRAINING else CLIENT_CLOSED_REQUEST

    def _ended(self, function: str, request: InFlightRequest, task: asyncio.Task[None]) -> None:
        """The handler has really ended: free its slot and count it."""
        del self._running[task]
        self._admission.release(request.started_at)
        request.end()
        error = None if task.cancelled() else task.exception()
        status = request.status if error is None else INTERNAL_SERVER_ERROR
        key = function, request.abort_status or status
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
        durations.observe(time.monotonic() - request.started_at)
        latest.set(time.time())
        if request.abort_status and error is not None:
            log.warning("%s failed after its request was over", function, exc_info=error)

    def abort_all(self) -> None:
        """End all requests that still run, now."""
        for request in self._running.values():
            request.end(Draining.status)

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
