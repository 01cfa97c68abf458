"""`/{slug}/health` and `/{slug}/ready`, answered beside the queue.

As requests they would wait in line behind pictures, and a probe that waits is a probe that fails. So the proxy asks Ray
Serve for the replicas and one of them how it is. A chute's own route at such a path is left to the chute.
"""

import asyncio
from typing import Any

from starlette.responses import JSONResponse, Response

from chutes.server.paths import HEALTH, PROBES, READY

_CONTROLLER = "SERVE_CONTROLLER_ACTOR"  # Ray Serve's name for it
_PATIENCE = 3.0  # seconds
_FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}


async def answer(path: str) -> Response | None:
    """The answer if this is the path of a probe that is ours to answer."""
    parts = path.split("/")
    if len(parts) != 3 or f"/{parts[2]}" not in PROBES:
        return None
    slug, probe = parts[1], f"/{parts[2]}"
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _ask(slug, probe)
    except Exception:  # noqa: BLE001 - the controller is being restarted, the replica is leaving: all mean the same
        return _not_yet("unknown") if probe == READY else JSONResponse({"status": "ok"})


async def _ask(slug: str, probe: str) -> Response | None:
    controller = await _actor(_CONTROLLER)
    details = await controller.get_serve_instance_details.remote()
    application = details["applications"].get(slug)
    if application is None:
        return None
    replicas = [each for deployment in application["deployments"].values() for each in deployment["replicas"]]
    running = [each for each in replicas if _word(each["state"]) == "RUNNING"]
    if not running:
        failed = _word(application["status"]) in _FAILED
        if probe == READY:
            return _not_yet("failed" if failed else "loading")
        return JSONResponse({"status": "failed" if failed else "ok"}, 503 if failed else 200)
    replica = await _actor(running[0]["actor_name"])
    said = await replica.record_routing_stats.remote()
    if probe in said["own_probes"]:
        return None
    if probe == HEALTH:
        return JSONResponse({"status": "ok"})
    return JSONResponse({**said["info"], "status": "ready", "replicas": len(running)})


def _not_yet(status: str) -> Response:
    return JSONResponse({"status": status}, 503, {"Retry-After": "1"})


async def _actor(name: str) -> Any:
    import ray

    return await asyncio.to_thread(ray.get_actor, name, namespace="serve")


def _word(state: Any) -> str:
    return str(getattr(state, "value", state))
