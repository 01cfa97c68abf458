"""The middleware that runs requests of cords: it reads the body, queues, calls the handler and enforces its time limit.

Each handler runs in a task of its own, which owns the slot. When the client disconnects or the time limit is reached,
the task is cancelled and the request ends at once. The slot is released later, when the task has ended: a thread that
still uses the GPU must not share it with the next request.
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
from chutes.chute._handler.media import MULTIPART, URL_ENCODED, BodyHeaders, body_headers
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
from chutes.server.forms import FormScan, check_form
from chutes.server.in_flight import CLIENT_CLOSED_REQUEST, InFlightRequest
from chutes.server.lifecycle import Lifecycle, State
from chutes.server.paths import JOBS, UNQUEUED
from chutes.server.settings import Settings
from chutes.server.strict_json import InvalidJson, parse_json

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

    _Series = tuple[Counter, Histogram, Gauge]

log = logging.getLogger(__name__)

_UNQUEUED = {(method, path) for method in ("GET", "HEAD") for path in UNQUEUED}
_WATCH_AFTER = 0.05  # seconds; most handlers end before it pays to watch for a disconnect


class CordMiddleware:
    """ASGI middleware that admits requests of cords to the chute, and passes all other requests to `others`.

    The limits on request bodies apply to both. WebSockets go to the chute without admission, because one that stays
    open would hold a slot for hours. Their handlers use `Chute.executor` to run the model.
    """

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
        self._gunzip_slot = asyncio.Semaphore(1)  # one at a time: memory is counted only afterwards
        self._running: dict[asyncio.Task[None], InFlightRequest] = {}
        self._series: dict[tuple[str, int], _Series] = {}  # a cache, because a lookup by labels is slow
        self._queue_wait = metrics.queue_wait.labels(chute.uid)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._chute(scope, receive, send)
            return
        path = _route_path(scope, self._chute.root_path)
        cord = self._cords.get((scope["method"], path))
        job = self._jobs.get(path) if cord is None and scope["method"] == "POST" else None
        headers = body_headers(scope["headers"])
        scope[UPLOAD] = upload = Upload(
            self.uploads,
            receive,
            has_body=headers.has_body,
            length=headers.length,
            limit=self._max_body_bytes(cord or job),
        )
        request: InFlightRequest | None = None
        try:
            if cord is None:
                await self._forward(job, scope, headers, upload, send)
            else:
                send = self._with_load_headers(send)
                request = await self._accept(cord, scope, headers, upload, send)
                await self._wait_for_slot(scope, request)
                upload.release()
                await self._run(cord, scope, request)
        except (ChutesError, InvalidJson) as error:
            upload.release()
            error = error.with_traceback(None)  # its frames hold the received part of the body
            if request is None and not upload.complete:
                await respond_and_drain(self._error_response(error, scope), scope, receive, send)
            elif request is None or not request.response_started:
                await self._error_response(error, scope)(scope, receive, send)
            elif isinstance(error, ChutesError):  # the connection closes in the middle of the response
                scope[LOG_CONTEXT]["status"] = error.status
        except ClientDisconnected:
            scope[LOG_CONTEXT]["status"] = CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            scope[LOG_CONTEXT]["status"] = self._cancel_status
            raise
        finally:
            upload.release()
            del scope[UPLOAD]  # breaks a reference cycle: the upload holds the connection, which holds the scope
            if request is not None:
                request.stop_watching()

    def _max_body_bytes(self, target: Cord | Job | None) -> int:
        limit = self._settings.max_body_bytes
        return min(limit, target.max_body_bytes or limit) if target is not None else limit

    async def _accept(
        self, cord: Cord, scope: Scope, headers: BodyHeaders, upload: Upload, send: Send
    ) -> InFlightRequest:
        """Check a request of a cord, and read its body. Raise ChutesError, InvalidJson or ClientDisconnected."""
        self._lifecycle.check()
        if cord.passthrough:
            self._admission.check()
            return InFlightRequest(upload.receive, send, await read_body(upload.receive))
        headers.check_media_type(self._chute.body_kind(cord))
        compressed = headers.has_body and check_encoding(headers.encoding)
        self._admission.check()
        body = await self._read(cord, scope, upload, headers, compressed=compressed)
        return InFlightRequest(upload.receive, send, body)

    async def _forward(self, job: Job | None, scope: Scope, headers: BodyHeaders, upload: Upload, send: Send) -> None:
        """Forward a request to the server's own routes or to the author's native ones.

        JSON and URL-encoded forms are read and checked first. Multipart forms, which may be large, are checked while
        the route reads them.
        """
        receive = upload.receive
        if headers.media_type == MULTIPART:
            scan = FormScan(MULTIPART)

            async def receive_scanned() -> Message:
                message = await upload.receive()
                scan.feed(message.get("body", b""))
                return message

            receive = receive_scanned
        elif headers.has_body and (headers.is_json or headers.media_type == URL_ENCODED):
            compressed = check_encoding(headers.encoding)
            body: bytes | None = await self._read(job, scope, upload, headers, compressed=compressed)

            async def receive_again() -> Message:
                nonlocal body
                if body is None:
                    return await upload.receive()
                message = {"type": "http.request", "body": body, "more_body": False}
                body = None
                return message

            receive = receive_again
        try:
            await self._others(scope, receive, send)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The route raised it itself, so the client still waits for an answer.
            raise RuntimeError("The author's code raised CancelledError.") from error

    async def _read(
        self, target: Cord | Job | None, scope: Scope, upload: Upload, headers: BodyHeaders, *, compressed: bool
    ) -> bytes:
        """Return the decompressed body. JSON is parsed into the scope, and forms are checked."""
        body = await read_body(upload.receive)
        if compressed and body:
            async with self._gunzip_slot:
                body = await asyncio.to_thread(gunzip, body, self._max_body_bytes(target))
                upload.hold(len(body))
            replaced = {b"content-encoding", b"content-length"}
            others = [(name, value) for name, value in scope["headers"] if name not in replaced]
            scope["headers"] = [*others, (b"content-length", b"%d" % len(body))]
        if body and not headers.is_json:
            await check_form(body, headers.media_type)
        elif body:
            upload.hold(len(body))  # the parsed value takes about as much memory again
            max_values = (target.max_json_values if target is not None else None) or self._settings.max_json_values
            scope[PARSED_JSON] = await parse_json(body, max_values, self._settings.max_body_bytes * 3 // 2)
        return body

    def _error_response(self, error: ChutesError | InvalidJson, scope: Scope) -> Response:
        if isinstance(error, InvalidJson):
            return from_validation(scope["path"], [error.error])
        metrics.rejections.labels(self._chute_id, error.code).inc()
        return from_chutes_error(scope["path"], error)

    async def _wait_for_slot(self, scope: Scope, request: InFlightRequest) -> None:
        """Wait for a slot. Raise ClientDisconnected, QueueTimeout or Draining."""
        if self._admission.acquire():
            self._queue_wait.observe(0)
            return
        waiter = self._admission.enqueue()
        queued_at = time.monotonic()
        request.watch()
        has_slot = False
        try:
            events: set[asyncio.Future[None]] = {waiter, request.done}
            timeout = self._settings.queue_timeout
            await asyncio.wait(events, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            has_slot = waiter.done() and not request.done.done()
        finally:
            if not has_slot:
                self._admission.withdraw(waiter)
            waited = time.monotonic() - queued_at
            self._queue_wait.observe(waited)
            scope[LOG_CONTEXT]["queue_ms"] = round(waited * 1000, 2)
        if request.abort_status:
            metrics.disconnects.labels(self._chute_id, "queued").inc()
            raise ClientDisconnected
        if not has_slot:
            raise QueueTimeout(headers={"Retry-After": str(self._admission.retry_after)})
        waiter.result()  # raises Draining if the queue was closed

    async def _run(self, cord: Cord, scope: Scope, request: InFlightRequest) -> None:
        """Run the handler until it ends, the client disconnects, or the time limit is reached."""
        request.started_at = time.monotonic()
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._chute(scope, request.receive, request.send))
        self._running[task] = request
        # Not a `finally` inside the task: a task that is cancelled before its first step never reaches it.
        task.add_done_callback(partial(self._finish, cord.name, request))
        watch = loop.call_later(_WATCH_AFTER, request.watch)
        deadline = loop.call_later(self._settings.request_timeout, request.end, RequestTimeout.status)
        try:
            await request.done
        except asyncio.CancelledError:
            request.abort_status = self._cancel_status
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
            message = f"The request was cancelled after {self._settings.request_timeout:g} seconds, the time limit."
            raise RequestTimeout(message, headers={"x-should-retry": "false"})
        if request.abort_status:
            raise Draining(headers={"Connection": "close"})
        task.result()

    @property
    def _cancel_status(self) -> int:
        """The status of a request that the ASGI server cancels.

        uvicorn cancels requests while draining, and Ray Serve when the client disconnects.
        """
        return Draining.status if self._lifecycle.state is State.DRAINING else CLIENT_CLOSED_REQUEST

    def _finish(self, function: str, request: InFlightRequest, task: asyncio.Task[None]) -> None:
        """Release the slot of a handler that has ended, and update the metrics."""
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
            log.warning("Handler %s failed after its request had ended", function, exc_info=error)

    def abort_all(self) -> None:
        """Abort all running requests."""
        for request in self._running.values():
            request.end(Draining.status)

    def _with_load_headers(self, send: Send) -> Send:
        """Add headers with the number of used and available slots to the response."""

        async def send_with_load_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                slots, used = self._admission.concurrency, self._admission.running
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-chutes-conn-used", b"%d" % used),
                    (b"x-chutes-conn-available", b"%d" % (slots - used)),
                    (b"x-chutes-conn-utilization", b"%.2f" % (used / slots)),
                ]
            await send(message)

        return send_with_load_headers


def _route_path(scope: Scope, own_root: str) -> str:
    """Return the path that the chute's router looks for: the path without the root path."""
    path, root = str(scope["path"]), own_root or str(scope.get("root_path", ""))
    return path[len(root) :] if path == root or path.startswith(f"{root}/") else path
