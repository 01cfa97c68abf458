"""Deploying a version: out it goes, how far it is is told, and if it fails the cluster is to want the one before again.

Ray Serve replaces the replicas: new ones take requests once they have loaded, old ones finish theirs. A failed version
has then never taken a request, and the old replicas still stand; but Ray Serve would go on wanting the new one whenever
a replica is lost, so it is told to want the old one again, which restarts nothing.
"""

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from chutes.deploy import logs, registry
from chutes.deploy.application import Spec, build
from chutes.exception import InvalidChuteName, RolloutFailed

ProgressCallback = Callable[[str, float | None], None]
"""Called with the phase in words, and how far it is, 0 to 1, where that is known."""

_POLL = 0.2  # seconds
_GOES_BACK_WITHIN = 60.0
_PLACED_WITHIN = 5.0  # where a node has room
_OVER = {"deploy_failed", "unhealthy"}


def start(spec: Spec) -> None:
    """Tell Ray Serve to want this version."""
    from ray import serve

    target = serve.RunTarget(build(spec), name=spec.slug, route_prefix=f"/{spec.slug}")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def roll_out(spec: Spec, tell: ProgressCallback) -> None:
    """Deploy and wait until it serves. RolloutFailed, after which whatever was there before still is."""
    before = _before(spec)
    there = _look(spec.slug)
    if before is not None and not before.served and there.status != "running":
        before = None  # it was interrupted, or failed
    start(spec)
    if before is None:
        registry.remember(spec)  # so that it has a name, whatever becomes of this
    failure = _follow(spec, {replica["replica_id"] for replica in there.replicas}, tell)
    if failure is None:
        registry.remember(replace(spec, served=True))
        return
    if before is None:
        delete(spec.slug)
    else:
        start(before)
        _wait_until_running(spec.slug)
    raise RolloutFailed(failure)


def _before(spec: Spec) -> Spec | None:
    """The version that this one replaces. InvalidChuteName where that is another chute, or where there is no slug."""
    if not spec.slug:
        raise InvalidChuteName("Its username and name have no letter or digit for its address: choose another --name")
    before = registry.recall(spec.slug) if spec.slug in registry.serve_details() else None
    if before is not None and before.uid != spec.uid:
        raise InvalidChuteName(f"{before.name} is deployed at /{spec.slug} already: choose another --name")
    return before


def _look(slug: str) -> registry.DeployedChute:
    return registry.DeployedChute(slug, None, registry.serve_details().get(slug, {}))


def _follow(spec: Spec, old: set[str], tell: ProgressCallback) -> str | None:
    """Tell how it goes until it serves, or why it does not."""
    reader = logs.Reader(spec.slug)
    progress: dict[str, Any] | None = None
    patient_until = time.monotonic() + _PLACED_WITHIN
    while True:
        chute = _look(spec.slug)
        if chute.status == "running":
            tell("ready", 1.0)
            return None
        if chute.status in _OVER:
            return failure_reason(chute)
        fresh = [replica for replica in chute.replicas if replica["replica_id"] not in old]
        starting = {replica["replica_id"]: replica for replica in fresh if replica["state"] == "starting"}
        for line in reader.read():
            if line.replica in starting and "progress" in line.fields:
                progress = line.fields["progress"]
        if starting and progress is not None:
            tell(f"loading: {progress['stage']}", progress.get("fraction"))
        elif any(replica.get("pid") for replica in starting.values()):
            tell("starting", None)
        elif any(replica["state"] == "running" for replica in fresh):
            tell("draining the version before", None)
        elif time.monotonic() > patient_until and (gpus := spec.ray_options.get("num_gpus")):
            tell(f"waiting until a node has {gpus} GPU{'s' if gpus > 1 else ''} free", None)
        else:
            tell("placing", None)
        time.sleep(_POLL)


def failure_reason(chute: registry.DeployedChute) -> str:
    """What the replica said when it failed, in one line; else Ray Serve's own message."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", str(chute.deployment.get("message") or chute.details.get("message") or ""))
    said = re.findall(r"LoadFailed: (.+)", message)
    if said:
        return str(said[-1]).strip()
    if "ActorDiedError" in message:
        return "The replica's process ended while it was loading; `chutes chutes logs` has its last words"
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "The replica ended without a word"


def _wait_until_running(slug: str) -> None:
    deadline = time.monotonic() + _GOES_BACK_WITHIN
    while _look(slug).status != "running" and time.monotonic() < deadline:
        time.sleep(_POLL)


def delete(slug: str, tell: ProgressCallback = lambda phase, fraction: None) -> None:
    """Take a chute out of the cluster; what it runs is finished first, within its grace. RolloutFailed."""
    import ray
    from ray import serve

    spec = registry.recall(slug)
    deadline = time.monotonic() + (spec.drain_grace if spec else 0) + _GOES_BACK_WITHIN
    starting = [replica["actor_name"] for replica in _look(slug).replicas if replica["state"] == "starting"]
    serve.delete(slug, _blocking=False)
    registry.forget(slug)
    for name in starting:  # Ray Serve would give them their grace as well, though they run nothing
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name, namespace="serve"))
    while slug in registry.serve_details():
        if time.monotonic() > deadline:
            raise RolloutFailed("It has not ended in its time: Ray Serve goes on stopping it")
        tell("finishing what runs", None)
        time.sleep(_POLL)


def start_unwatched(spec: Spec, tell: ProgressCallback) -> None:
    """Deploy and wait for nothing: if it fails, only its status will say so."""
    _before(spec)
    start(spec)
    tell("under way", None)
    registry.remember(spec)


def scale(spec: Spec, replicas: int) -> None:
    """Have Ray Serve run so many replicas of the version that runs, and no other number."""
    fixed = {**spec.autoscaling, "min_replicas": replicas, "max_replicas": replicas, "initial_replicas": replicas}
    scaled = replace(spec, autoscaling=fixed)
    start(scaled)
    registry.remember(scaled)
