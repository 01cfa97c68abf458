"""What runs in the cluster, and the names it goes by.

Ray Serve knows the replicas; what a chute is called, and what it was last made from, the cluster keeps for us in its
key-value store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chutes._warn import did_you_mean
from chutes.deploy.application import DEPLOYMENT, Spec, from_json, to_json
from chutes.exception import UnknownChute

_NAMESPACE = b"chutes"
_PATIENCE = 5.0  # seconds for a replica to say how it is


@dataclass(frozen=True)
class DeployedChute:
    """One chute in the cluster: what we know of it, and what Ray Serve does."""

    slug: str
    spec: Spec | None
    details: dict[str, Any]

    @property
    def name(self) -> str:
        """What people call it."""
        return self.spec.name if self.spec else self.slug

    @property
    def status(self) -> str:
        """Ray Serve's word for how it is, in lower case."""
        return _word(self.details.get("status", "not_started"))

    @property
    def deployment(self) -> dict[str, Any]:
        """Ray Serve's details of the one deployment that it is."""
        return dict(self.details.get("deployments", {}).get(DEPLOYMENT, {}))

    @property
    def replicas(self) -> list[dict[str, Any]]:
        """Its replicas, the oldest first."""
        found = self.deployment.get("replicas", [])
        return sorted(
            ({**each, "state": _word(each["state"])} for each in found), key=lambda each: each.get("start_time_s") or 0
        )

    @property
    def names(self) -> list[str]:
        """What is its own: its name, its slug, its id."""
        return [self.slug] if self.spec is None else [self.spec.name, self.slug, self.spec.uid]

    @property
    def modules(self) -> list[str]:
        """What it may share with a chute deployed under a second name: its module, as such and with dashes."""
        if self.spec is None:
            return []
        return [self.spec.module.rpartition(".")[2].replace("_", "-"), self.spec.module]


def _word(value: Any) -> str:
    return str(getattr(value, "value", value)).lower()


def everything() -> list[DeployedChute]:
    """All chutes in the cluster, by name."""
    found = [DeployedChute(slug, recall(slug), details) for slug, details in serve_details().items()]
    return sorted(found, key=lambda each: each.name.lower())


def find(name: str, known: Sequence[DeployedChute] | None = None) -> DeployedChute:
    """The chute of this name, id, slug or module. UnknownChute suggests the nearest."""
    known = everything() if known is None else known
    wanted = name.lower()
    for names in ("names", "modules"):
        found = [each for each in known if wanted in [other.lower() for other in getattr(each, names)]]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownChute(f"{name} is {' and '.join(each.name for each in found)}, name one of them")
    every = [other for each in known for other in (*each.names, *each.modules)]
    there = f" There is {', '.join(each.name for each in known)}." if known else ""
    raise UnknownChute(f"No chute {name} is deployed.{did_you_mean(name, every) or there}")


def serve_details() -> dict[str, Any]:
    """What Ray Serve knows of each chute, by its slug."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        client = serve.context._get_global_client()  # noqa: SLF001 - `serve.status()` tells nothing of replicas' actors
    except RayServeException:
        return {}
    return dict(client.get_serve_details().get("applications", {})) if client is not None else {}


def ask_replicas(chute: DeployedChute) -> dict[str, dict[str, Any]]:
    """How each running replica says that it is, by its id; one that does not answer in time is left out."""
    import ray

    asked = {}
    for replica in chute.replicas:
        if replica["state"] == "running":
            try:
                actor = ray.get_actor(replica["actor_name"], namespace="serve")
            except ValueError:
                continue
            asked[replica["replica_id"]] = actor.record_routing_stats.remote()
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=_PATIENCE) if asked else None
    answers = {}
    for replica_id, reference in asked.items():
        try:
            answers[replica_id] = ray.get(reference, timeout=0.1)
        except ray.exceptions.RayError:
            continue
    return answers


def remember(spec: Spec) -> None:
    """Keep what the chute is made from."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(spec.slug, to_json(spec), overwrite=True, namespace=_NAMESPACE)  # noqa: SLF001


def recall(slug: str) -> Spec | None:
    """What `remember` kept."""
    from ray.experimental import internal_kv

    kept = internal_kv._internal_kv_get(slug, namespace=_NAMESPACE)  # noqa: SLF001
    return from_json(kept) if kept else None


def forget(slug: str) -> None:
    """Keep nothing of this chute."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(slug, namespace=_NAMESPACE)  # noqa: SLF001
