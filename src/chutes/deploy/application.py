"""A chute as a Ray Serve application, with its settings as Ray Serve's options."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from chutes.chute import Chute
from chutes.deploy.package import Package
from chutes.deploy.replica import Replica, ReplicaConfig
from chutes.deploy.scaling import autoscaling
from chutes.loader import parse_reference
from chutes.server import Settings, cors
from chutes.server.auth import key_store
from chutes.server.lifecycle import RETRY_AFTER, SHUTDOWN_MARGIN, SHUTDOWN_TIMEOUT
from chutes.server.settings import PREFIX, settings_from_environment

if TYPE_CHECKING:
    from ray.serve import Application

DEPLOYMENT = "chute"
"""The name of the only deployment in each application."""

_MACHINE_SETTINGS = {"CHUTES_HOST", "CHUTES_PORT", "CHUTES_EXECUTION_CONTEXT", "CHUTES_KEYS_FILE"}
"""Settings that apply to this machine only, so replicas do not get them."""


@dataclass(frozen=True)
class Spec:
    """The specification of one version of a deployed chute. The registry stores the last one of each chute."""

    name: str
    username: str
    uid: str
    slug: str
    module: str
    version: str
    package: Package
    environment: dict[str, str]
    """Environment variables of the replicas."""
    settings: dict[str, Any]
    """Server settings that win over the environment."""
    ray_options: dict[str, Any]
    """Ray's resource options for one replica."""
    autoscaling: dict[str, Any]
    """Ray Serve's `autoscaling_config`."""
    concurrency: int
    queue_size: int
    drain_grace: float
    surge: bool
    """Whether a new replica can load beside the old one."""
    cords: list[dict[str, Any]]
    """Path, methods and name of each cord."""
    cors: dict[str, Any] | None = None
    """Options of the author's CORSMiddleware."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Further values that `chutes chutes get` shows."""
    created_at: float = field(default_factory=time.time)
    """Unix time."""
    served: bool = False
    """Whether this version has ever been ready."""


def spec_for(
    chute: Chute,
    package: Package,
    *,
    name: str | None = None,
    environment: dict[str, str] | None = None,
    ray_options: dict[str, Any],
    surge: bool = True,
    no_auth: bool = False,
) -> Spec:
    """Return the Spec of a new version of a chute.

    Args:
        chute: The chute.
        package: Its files.
        name: The name to deploy it under; by default the chute's name.
        environment: Environment variables of the replicas besides the settings of this process.
        ray_options: Ray's resource options for one replica.
        surge: Whether a new replica can load beside the old one.
        no_auth: Whether to disable API-key authentication.
    """
    environment = {**runtime_environment(), **(environment or {})}
    settings = Settings(**settings_from_environment(environment))
    author_cors = cors.take_middleware(chute)
    identity = chute if name is None else Chute(chute.username, name, chute.image)
    return Spec(
        name=identity.name,
        username=identity.username,
        uid=identity.uid,
        slug=identity.slug,
        module=parse_reference(package.entry).module,
        version=uuid4().hex[:8],
        package=package,
        environment=environment,
        # A replica on another machine cannot read this machine's key file, so a setting says whether keys are required.
        settings={"no_auth": True} if no_auth else {"require_key": bool(key_store(settings))},
        ray_options=ray_options,
        autoscaling=autoscaling(chute),
        concurrency=chute.concurrency,
        queue_size=settings.queue_size,
        drain_grace=settings.drain_grace,
        surge=surge,
        cords=[
            {"path": cord.route_path, "methods": sorted(cord.route_methods), "name": cord.name} for cord in chute.cords
        ],
        cors=cors.options(author_cors) if author_cors else None,
        metadata={
            "tagline": chute.tagline,
            "image": chute.image if isinstance(chute.image, str) else f"{chute.image.name}:{chute.image.tag}",
            "node_selector": chute.node_selector.model_dump(exclude_none=True) if chute.node_selector else None,
            "scale_up_threshold": chute.scale_up_threshold,
            "scaling_threshold": chute.scaling_threshold,
        },
    )


def runtime_environment() -> dict[str, str]:
    """Return the settings in this process's environment that replicas get too."""
    return {
        name: value for name, value in os.environ.items() if name.startswith(PREFIX) and name not in _MACHINE_SETTINGS
    }


def options(spec: Spec) -> dict[str, Any]:
    """Return the Ray Serve deployment options that a Kubernetes manifest can also contain."""
    return {
        "max_ongoing_requests": spec.concurrency,
        "max_queued_requests": max(1, spec.queue_size),  # Ray Serve's minimum
        "autoscaling_config": spec.autoscaling,
        "ray_actor_options": spec.ray_options,
        "graceful_shutdown_timeout_s": spec.drain_grace + SHUTDOWN_TIMEOUT + SHUTDOWN_MARGIN,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 1,  # a lost replica is replaced within seconds
        "health_check_timeout_s": 30,
    }


def build(spec: Spec) -> "Application":
    """Return the application for `serve.run`.

    Each replica loads the chute from its files, so no object of the author is pickled.
    """
    from ray import serve

    config = ReplicaConfig(spec.slug, spec.package.entry, spec.package.content, spec.environment, spec.settings)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT,
        backpressure_config={"status_code": 429, "retry_after_s": RETRY_AFTER},
        max_constructor_retry_count=1,  # a model that failed to load will fail again
        rolling_update_percentage=1.0,
        max_surge_percent=100 if spec.surge else 0,
        request_router_config={
            "request_routing_stats_period_s": 86_400,  # the router ignores them; see Replica.record_routing_stats
            # The pause before the router checks a busy replica again. The default of half a second leaves replicas
            # idle half of the time when requests are short.
            "initial_backoff_s": 0.01,
            "max_backoff_s": 0.05,
        },
        **options(spec),
    )
    # Ray Serve restarts replicas only if the version changes. Restoring a version or scaling it restarts nothing.
    return deployment.options(version=spec.version, _internal=True).bind(config)


def to_json(spec: Spec) -> bytes:
    """Return a Spec in the form that the registry stores."""
    fields = asdict(spec)
    fields["package"]["content"] = spec.package.content.hex()
    return json.dumps(fields).encode()


def from_json(text: bytes) -> Spec:
    """Return the Spec that `to_json` encoded."""
    fields = json.loads(text)
    package = fields["package"]
    fields["package"] = Package(package["entry"], tuple(package["files"]), bytes.fromhex(package["content"]))
    return Spec(**fields)
