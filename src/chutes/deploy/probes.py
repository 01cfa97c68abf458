"""`/{slug}/health` and `/{slug}/ready`, answered by the proxy.

As ordinary requests, probes would wait in the queue and time out while the chute is busy. So the proxy asks Ray Serve
for the state of the replicas, and one running replica for its report. A chute's own route at such a path wins.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse, Response

from chutes.deploy.registry import FAILED_STATUSES, state_name
from chutes.server.paths import HEALTH, PROBES, READY

_CONTROLLER = "SERVE_CONTROLLER_ACTOR"  # Ray Serve's name for it
_TIMEOUT = 3.0  # seconds


async def answer(path: str) -> Response | None:
    """Return the response to a probe, or None if the path is not a probe or the chute has a route there."""
    parts = path.split("/")
    if len(parts) != 3 or f"/{parts[2]}" not in PROBES:
        return None
    slug, probe = parts[1], f"/{parts[2]}"
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await _probe(slug, probe)
    except Exception:  # noqa: BLE001 - any error means that the controller restarts or that the replica is stopping
        return _not_ready("unknown") if probe == READY else JSONResponse({"status": "ok"})


async def _probe(slug: str, probe: str) -> Response | None:
    details = await _query_once(_CONTROLLER, lambda controller: controller.get_serve_instance_details.remote())
    application = details["applications"].get(slug)
    if application is None:
        return None
    replicas = [each for deployment in application["deployments"].values() for each in deployment["replicas"]]
    running = [each for each in replicas if state_name(each["state"]) == "running"]
    if not running:
        failed = state_name(application["status"]) in FAILED_STATUSES
        if probe == READY:
            return _not_ready("failed" if failed else "loading")
        return JSONResponse({"status": "failed" if failed else "ok"}, 503 if failed else 200)
    report = await _query_once(running[0]["actor_name"], lambda replica: replica.record_routing_stats.remote())
    if probe in report["chute_probes"]:
        return None
    if probe == HEALTH:
        return JSONResponse({"status": "ok"})
    return JSONResponse({**report["info"], "status": "ready", "replicas": len(running)})


def _not_ready(status: str) -> Response:
    return JSONResponse({"status": status}, 503, {"Retry-After": "1"})


_queries: dict[str, asyncio.Task[Any]] = {}
"""The pending query of each actor, by the actor's name."""


async def _query_once(name: str, method: Callable[[Any], Awaitable[Any]]) -> Any:
    """Query an actor, or wait for its pending query: a flood of probes must not keep the actor busy."""
    task = _queries.get(name)
    if task is None:
        task = _queries[name] = asyncio.create_task(_query(name, method))
        task.add_done_callback(lambda _: _queries.pop(name))
    return await asyncio.shield(task)


async def _query(name: str, method: Callable[[Any], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(_TIMEOUT):  # the request that started the query may have timed out already
        return await method(await _actor(name))


async def _actor(name: str) -> Any:
    import ray

    return await asyncio.to_thread(ray.get_actor, name, namespace="serve")
