"""Roll out a version: start its replicas, report progress, and restore the previous target if it fails.

Ray Serve replaces the replicas: a new replica takes requests once it has loaded, and an old one finishes its requests
first. If the new version fails, the old replicas still serve, but Ray Serve would start the failed version in place of
the next lost replica. Setting the old version as the target again prevents that, and restarts nothing.
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
from chutes.server.lifecycle import log as lifecycle_log

ProgressCallback = Callable[[str, float | None], None]
"""A function that takes the current phase, and its progress from 0 to 1 or None."""

_POLL_INTERVAL = 0.2  # seconds
_SETTLE_TIMEOUT = 60.0  # for a version to run or to be listed again, and for a deleted one to disappear
_PLACEMENT_TIMEOUT = 5.0  # for a replica to be placed, before a report that no node has room


def start(spec: Spec) -> None:
    """Set a version as Ray Serve's target."""
    from ray import serve

    target = serve.RunTarget(build(spec), name=spec.slug, route_prefix=f"/{spec.slug}")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def roll_out(spec: Spec, report: ProgressCallback) -> None:
    """Deploy a version and wait until it is ready.

    If it fails, restore the previous version and raise RolloutFailed.
    """
    previous = _previous_version(spec)
    deployed = _look_up(spec.slug)
    if previous is not None and not previous.served and deployed.status != "running":
        previous = None  # its rollout failed or was interrupted, so there is nothing to restore
    start(spec)
    if previous is None:
        registry.save_spec(spec)  # a first version needs its name in the registry even while it loads
    failure = _wait_until_ready(spec, {replica["replica_id"] for replica in deployed.replicas}, report)
    if failure is None:
        registry.save_spec(replace(spec, served=True))
        return
    if previous is None:
        delete(spec.slug)
    else:
        start(previous)
        _wait_until_running(spec.slug)
    raise RolloutFailed(failure)


def start_without_waiting(spec: Spec, report: ProgressCallback) -> None:
    """Deploy a version without waiting for it. Only its status shows a failure."""
    _previous_version(spec)  # for its checks of the slug
    start(spec)
    report("started, not waiting", None)
    registry.save_spec(spec)


def _previous_version(spec: Spec) -> Spec | None:
    """Return the version that is deployed at the same slug.

    Raise InvalidChuteName if the slug is empty or belongs to another chute.
    """
    if not spec.slug:
        raise InvalidChuteName(
            "The chute has no URL, because its username and name contain no letter or digit. Choose a name with --name."
        )
    previous = registry.load_spec(spec.slug) if spec.slug in registry.serve_details() else None
    if previous is not None and previous.uid != spec.uid:
        raise InvalidChuteName(
            f"Another chute, {previous.name}, is already deployed at /{spec.slug}. Choose another name with --name."
        )
    return previous


def _look_up(slug: str) -> registry.DeployedChute:
    return registry.DeployedChute(slug, None, registry.serve_details().get(slug, {}))


def _wait_until_ready(spec: Spec, old_replicas: set[str], report: ProgressCallback) -> str | None:
    """Report progress until the version is ready or has failed. Return None, or the reason for the failure.

    Raise RolloutFailed if somebody deletes the chute meanwhile. The caller then restores no previous version.
    """
    reader = logs.Reader(spec.slug)
    progress: dict[str, Any] | None = None
    placement_deadline = time.monotonic() + _PLACEMENT_TIMEOUT
    last_seen = time.monotonic()
    while True:
        chute = _look_up(spec.slug)
        if chute.details:
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > _SETTLE_TIMEOUT:  # a controller that restarts needs less time
            raise RolloutFailed(f"{spec.name} was deleted while it was being deployed. Deploy it again.")
        if chute.status == "running":
            report("ready", 1.0)
            return None
        if chute.status in registry.FAILED_STATUSES:
            return failure_reason(chute)
        new = [replica for replica in chute.replicas if replica["replica_id"] not in old_replicas]
        starting = {replica["replica_id"]: replica for replica in new if replica["state"] == "starting"}
        for line in reader.read():
            if line.replica in starting and line.logger == lifecycle_log.name and "progress" in line.fields:
                progress = line.fields["progress"]
        if starting and progress is not None:
            report(f"loading: {progress['stage']}", progress.get("fraction"))
        else:
            report(_phase(spec, new, is_late=time.monotonic() > placement_deadline), None)
        time.sleep(_POLL_INTERVAL)


def _phase(spec: Spec, new: list[dict[str, Any]], *, is_late: bool) -> str:
    """Describe what the replicas of a version do before they report progress."""
    if any(replica["state"] == "starting" and replica.get("pid") for replica in new):
        return "starting"
    if any(replica["state"] == "running" for replica in new):
        return "draining the previous version"
    if is_late and (gpus := spec.ray_options.get("num_gpus")):
        return f"waiting for a node with {gpus} free GPU{'s' if gpus > 1 else ''}"
    return "placing"


def failure_reason(chute: registry.DeployedChute) -> str:
    """Return the error that a replica reported when it failed, in one line, or Ray Serve's own message."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", str(chute.deployment.get("message") or chute.details.get("message") or ""))
    load_errors = re.findall(r"LoadFailed: (.+)", message)
    if load_errors:
        return str(load_errors[-1]).strip()
    if "ActorDiedError" in message:
        return "The replica's process ended while the chute was loading. See its last lines in `chutes chutes logs`."
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "The replica ended without an error message."


def _wait_until_running(slug: str) -> None:
    deadline = time.monotonic() + _SETTLE_TIMEOUT
    while _look_up(slug).status != "running" and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL)


def delete(slug: str, report: ProgressCallback = lambda phase, fraction: None) -> None:
    """Remove a chute from the cluster after its running requests have finished, or after its grace period.

    Raise RolloutFailed if it is not removed in time.
    """
    import ray
    from ray import serve

    spec = registry.load_spec(slug)
    deadline = time.monotonic() + (spec.drain_grace if spec else 0) + _SETTLE_TIMEOUT
    starting = [replica["actor_name"] for replica in _look_up(slug).replicas if replica["state"] == "starting"]
    serve.delete(slug, _blocking=False)
    registry.delete_spec(slug)
    for name in starting:  # Ray Serve would wait for their grace period, although they have no requests
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name, namespace="serve"))
    while slug in registry.serve_details():
        if time.monotonic() > deadline:
            raise RolloutFailed(f"{slug} still runs after its grace period. Ray Serve stops it as soon as it can.")
        report("finishing running requests", None)
        time.sleep(_POLL_INTERVAL)


def scale(spec: Spec, replicas: int) -> None:
    """Set a fixed number of replicas as Ray Serve's target, instead of autoscaling."""
    fixed = {**spec.autoscaling, "min_replicas": replicas, "max_replicas": replicas, "initial_replicas": replicas}
    scaled = replace(spec, autoscaling=fixed)
    start(scaled)
    registry.save_spec(scaled)
