"""The server's own routes: `/health`, `/ready`, `/metrics`, jobs, and the hosted platform's `/_ping` and others.

A route of the chute at one of these paths takes precedence. The chute's own `/health` and `/ready` run on the author's
event loop, which a handler may block. If they do not answer within a second, the server answers instead.
"""

import asyncio
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from chutes.chute import Chute
from chutes.chute._routing.route import ChuteRoute
from chutes.exception import BodyTooLarge
from chutes.server import metrics
from chutes.server.admission import Admission
from chutes.server.errors import json_safe
from chutes.server.lifecycle import Lifecycle, State
from chutes.server.paths import CONN_STATS, HEALTH, METRICS, PING, PLATFORM_METRICS, PROBES, READY, UNQUEUED

_PROBE_TIMEOUT = 1.0  # seconds
_MAX_PING_BYTES = 64 * 1024


def router(chute: Chute, lifecycle: Lifecycle, admission: Admission) -> APIRouter:
    """Return the routes for probes and metrics."""
    routes = APIRouter(include_in_schema=False, route_class=ChuteRoute)

    @routes.api_route(HEALTH, methods=["GET", "HEAD"])
    async def health() -> Response:
        """Report whether the process is alive. A status other than 200 asks for a restart."""
        if lifecycle.state is State.FAILED:
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "ok"})

    @routes.api_route(READY, methods=["GET", "HEAD"])
    async def ready() -> Response:
        """Report whether the chute accepts requests, and the progress while it loads."""
        details: dict[str, Any] = dict(chute.info) if lifecycle.state is State.READY else {}
        headers = {}
        if lifecycle.state is State.LOADING:
            details = chute.progress.snapshot()
            headers["Retry-After"] = "1"
        status = {"status": str(lifecycle.state)}
        content = status | details | status  # `status` comes first, and `info` of the chute cannot replace it
        return JSONResponse(json_safe(content), 200 if lifecycle.state is State.READY else 503, headers)

    @routes.get(METRICS)
    @routes.get(PLATFORM_METRICS)
    async def prometheus() -> Response:
        """Return all metrics. Collecting them runs in a thread, because the GPU driver may be slow."""
        return Response(await run_sync(metrics.exposition), media_type=CONTENT_TYPE_LATEST)

    @routes.post(PING)
    async def ping(request: Request) -> Response:
        """Return the request body."""
        body = await request.body()
        if len(body) > _MAX_PING_BYTES:
            raise BodyTooLarge(f"The request body is larger than {_MAX_PING_BYTES} bytes.")
        return Response(body, media_type="application/json")

    @routes.get(CONN_STATS)
    async def conn_stats() -> dict[str, float]:
        """Report how busy the chute is."""
        return {
            "concurrency": admission.concurrency,
            "in_flight": admission.running,
            "queued": admission.queued,
            "available": admission.concurrency - admission.running,
            "utilization": round(admission.running / admission.concurrency, 2),
        }

    return routes


class RuntimeRoutes:
    """ASGI application that serves the server's own routes, and passes the chute's routes on to the chute."""

    def __init__(self, server_app: FastAPI, chute: Chute, lifecycle: Lifecycle) -> None:
        self._server_app = server_app
        self._chute = chute
        self._lifecycle = lifecycle
        # Compared by their first segment: /jobs/{name} is the server's, unless the chute has a route under /jobs.
        self._server_segments = {_first_segment(path) for path in route_paths(server_app)}
        self._server_segments -= {_first_segment(path) for path in route_paths(chute)}
        # A cord at the path of a probe that accepts only POST does not replace the probe.
        self._chute_probes = chute_probes(chute)
        self._server_probes = UNQUEUED - route_paths(chute, method="GET")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope.get("path", "")
        is_get = scope.get("method") in {"GET", "HEAD"}
        if is_get and path in self._chute_probes:
            await self._probe(scope, receive, send)
        elif _first_segment(path) in self._server_segments or (is_get and path in self._server_probes):
            await self._server_app(scope, receive, send)
        else:
            await self._chute(scope, receive, send)

    async def _probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the chute answer its own probe if it is ready and does so in time; otherwise answer for it."""
        if self._lifecycle.state is not State.READY:
            await self._server_app(scope, receive, send)
            return
        is_answered = is_late = False

        async def send_in_time(message: Message) -> None:
            nonlocal is_answered
            if not is_late:
                is_answered = True
                await send(message)

        probe = asyncio.ensure_future(self._chute(scope, receive, send_in_time))
        await asyncio.wait({probe}, timeout=_PROBE_TIMEOUT)
        if is_answered or probe.done():
            await probe
            return
        is_late = True
        probe.cancel()
        await self._server_app(scope, receive, send)


def chute_probes(chute: Chute) -> frozenset[str]:
    """Return the paths of the probes that the chute answers itself."""
    return PROBES & route_paths(chute, method="GET")


def route_paths(app: FastAPI, method: str = "") -> set[str]:
    """Return the paths of an app's routes, including those of its routers; with `method`, only those that accept it."""
    routes = [route for route in iter_route_contexts(app.routes) if not method or method in (route.methods or {method})]
    return {route.path for route in routes if route.path}


def _first_segment(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""
