"""The routes that say how a chute is: `/health`, `/ready`, `/metrics`, and upstream's `/_ping` and the like.

A route of the chute's own at one of these paths wins. Its `/health` and `/ready` run on the authors' loop, where a
handler may be blocking, so they get a second to answer before the runtime answers for them.
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
from chutes.server.paths import CONN_STATS, HEALTH, METRICS, PING, PROBES, READY, UPSTREAM_METRICS

_PATIENCE = 1.0  # seconds
_LONGEST_PING = 64 * 1024  # bytes


def router(chute: Chute, lifecycle: Lifecycle, admission: Admission) -> APIRouter:
    """The routes, for the service app."""
    routes = APIRouter(include_in_schema=False, route_class=ChuteRoute)

    @routes.api_route(HEALTH, methods=["GET", "HEAD"])
    async def health() -> Response:
        """Whether the process should live: anything but 200 asks for a restart."""
        if lifecycle.state is State.FAILED:
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "ok"})

    @routes.api_route(READY, methods=["GET", "HEAD"])
    async def ready() -> Response:
        """Whether requests are taken; while loading, what is loading and how far it is."""
        told: dict[str, Any] = dict(chute.info) if lifecycle.state is State.READY else {}
        headers = {}
        if lifecycle.state is State.LOADING:
            told = chute.progress.snapshot()
            headers["Retry-After"] = "1"
        status = {"status": str(lifecycle.state)}
        told = status | told | status
        return JSONResponse(json_safe(told), 200 if lifecycle.state is State.READY else 503, headers)

    @routes.get(METRICS)
    @routes.get(UPSTREAM_METRICS)
    async def prometheus() -> Response:
        """All series, in a thread: the GPU driver may take its time."""
        return Response(await run_sync(metrics.exposition), media_type=CONTENT_TYPE_LATEST)

    @routes.post(PING)
    async def ping(request: Request) -> Response:
        """Send the body back."""
        body = await request.body()
        if len(body) > _LONGEST_PING:
            raise BodyTooLarge(f"The body is larger than {_LONGEST_PING} bytes")
        return Response(body, media_type="application/json")

    @routes.get(CONN_STATS)
    async def conn_stats() -> dict[str, float]:
        """How busy the chute is."""
        return {
            "concurrency": admission.concurrency,
            "in_flight": admission.running,
            "queued": admission.queued,
            "available": admission.concurrency - admission.running,
            "utilization": round(admission.running / admission.concurrency, 2),
        }

    return routes


class RuntimeRoutes:
    """ASGI: the runtime's own routes, except at paths where the chute has one."""

    def __init__(self, service: FastAPI, chute: Chute, lifecycle: Lifecycle) -> None:
        self._service = service
        self._chute = chute
        self._lifecycle = lifecycle
        theirs = route_paths(chute)
        # By their first part: /jobs/{name} belongs to us, unless the author has something under /jobs.
        self._ours = {_first(path) for path in route_paths(service)} - {_first(path) for path in theirs}
        # A cord at the path of a probe that only takes POST is none.
        gets = route_paths(chute, verb="GET")
        self._their_probes = gets & PROBES
        self._our_probes = (PROBES | {METRICS}) - gets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the chute do it."""
        path = scope.get("path", "")
        asks = scope.get("method") in {"GET", "HEAD"}
        if asks and path in self._their_probes:
            await self._probe(scope, receive, send)
        elif _first(path) in self._ours or (asks and path in self._our_probes):
            await self._service(scope, receive, send)
        else:
            await self._chute(scope, receive, send)

    async def _probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The chute's own probe, once it is loaded and as long as it is not busy."""
        if self._lifecycle.state is not State.READY:
            await self._service(scope, receive, send)
            return
        answered = late = False

        async def send_in_time(message: Message) -> None:
            nonlocal answered
            if not late:
                answered = True
                await send(message)

        theirs = asyncio.ensure_future(self._chute(scope, receive, send_in_time))
        await asyncio.wait({theirs}, timeout=_PATIENCE)
        if answered or theirs.done():
            await theirs
            return
        late = True
        theirs.cancel()
        await self._service(scope, receive, send)


def route_paths(app: FastAPI, verb: str = "") -> set[str]:
    """The paths that an app answers (under this verb), those of routers it includes among them."""
    routes = [route for route in iter_route_contexts(app.routes) if not verb or verb in (route.methods or {verb})]
    return {route.path for route in routes if route.path}


def _first(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else ""
