"""A chute as a Ray Serve application: each of its settings under Ray Serve's name for it."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from chutes.chute import Chute
from chutes.deploy.package import Package
from chutes.deploy.replica import Description, Replica
from chutes.deploy.scaling import autoscaling
from chutes.loader import parse
from chutes.server import Settings, cors
from chutes.server.auth import key_store
from chutes.server.settings import settings_from_environment

DEPLOYMENT = "chute"  # the one deployment of each application
_RETRY_AFTER = 5  # seconds, as while loading
_LAST_WORDS = 20  # seconds for the shutdown hooks, after the grace
_NOT_THEIRS = {"CHUTES_HOST", "CHUTES_PORT", "CHUTES_EXECUTION_CONTEXT", "CHUTES_KEYS_FILE"}


@dataclass(frozen=True)
class Spec:
    """Everything that makes one version of a deployed chute; the cluster keeps the last one, and whether it served."""

    name: str
    username: str
    uid: str
    slug: str
    module: str
    version: str
    package: Package
    environment: dict[str, str]
    settings: dict[str, Any]
    ray_options: dict[str, Any]
    autoscaling: dict[str, Any]
    concurrency: int
    queue_size: int
    drain_grace: float
    surge: bool
    cords: list[dict[str, Any]]
    cors: dict[str, Any] | None = None
    """The options of the author's CORSMiddleware."""
    metadata: dict[str, Any] = field(default_factory=dict)
    made_at: float = field(default_factory=time.time)
    served: bool = False


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
    """Describe this version. `surge`: there is room for the new replica beside the old one."""
    environment = {**own_settings(), **(environment or {})}
    settings = Settings(**settings_from_environment(environment))
    author_cors = cors.take_middleware(chute)
    called = chute if name is None else Chute(chute.username, name, chute.image)
    return Spec(
        name=called.name,
        username=called.username,
        uid=called.uid,
        slug=called.slug,
        module=parse(package.entry).module,
        version=uuid4().hex[:8],
        package=package,
        environment=environment,
        # A replica on another machine does not see the file of keys; it must not take that for there being none.
        settings={"no_auth": True} if no_auth else {"require_key": bool(key_store(settings))},
        ray_options=ray_options,
        autoscaling=autoscaling(chute),
        concurrency=max(1, chute.concurrency),
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


def own_settings() -> dict[str, str]:
    """The settings of the runtime in this environment, which replicas are to have as well."""
    return {name: value for name, value in os.environ.items() if name.startswith("CHUTES_") and name not in _NOT_THEIRS}


def options(spec: Spec) -> dict[str, Any]:
    """Ray Serve's deployment options; also what a manifest for Kubernetes holds."""
    return {
        "max_ongoing_requests": spec.concurrency,
        "max_queued_requests": spec.queue_size if spec.queue_size > 0 else 1,
        "autoscaling_config": spec.autoscaling,
        "ray_actor_options": spec.ray_options,
        "graceful_shutdown_timeout_s": spec.drain_grace + _LAST_WORDS,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 1,  # how soon a lost replica is missed
        "health_check_timeout_s": 30,
    }


def build(spec: Spec) -> Any:
    """The application, for `serve.run`; built again inside each replica, so nothing of the chute is pickled."""
    from ray import serve

    description = Description(spec.slug, spec.package.entry, spec.package.content, spec.environment, spec.settings)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT,
        backpressure_config={"status_code": 429, "retry_after_s": _RETRY_AFTER},
        max_constructor_retry_count=1,  # a model that did not load will not load the second time either
        rolling_update_percentage=1.0,
        max_surge_percent=100 if spec.surge else 0,
        request_router_config={
            "request_routing_stats_period_s": 86_400,  # nobody routes by them; see Replica.record_routing_stats
            # How long the next in line may look away from a busy replica: with the default of half a second, short
            # requests leave it idle half of the time.
            "initial_backoff_s": 0.01,
            "max_backoff_s": 0.05,
        },
        **options(spec),
    )
    # The same version again, as after a failed deploy or for another number of replicas, restarts nothing.
    return deployment.options(version=spec.version, _internal=True).bind(description)


def to_json(spec: Spec) -> bytes:
    """As the cluster keeps it."""
    kept = asdict(spec)
    kept["package"]["content"] = spec.package.content.hex()
    return json.dumps(kept).encode()


def from_json(text: bytes) -> Spec:
    """What `to_json` wrote."""
    kept = json.loads(text)
    package = kept["package"]
    kept["package"] = Package(package["entry"], tuple(package["files"]), bytes.fromhex(package["content"]))
    return Spec(**kept)
