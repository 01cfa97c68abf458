"""The registry of deployed chutes: which chutes a cluster runs, and how to find one by name.

Ray Serve knows the applications and their replicas. The Spec that a chute was last deployed from is stored in the
cluster's key-value store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chutes._warn import did_you_mean
from chutes.deploy.application import DEPLOYMENT, Spec, from_json, to_json
from chutes.exception import UnknownChute

FAILED_STATUSES = frozenset({"deploy_failed", "unhealthy"})
"""Ray Serve's statuses of an application that has failed, in lower case."""

_NAMESPACE = b"chutes"
_REPLICA_TIMEOUT = 5.0  # seconds for all replicas to report


@dataclass(frozen=True)
class DeployedChute:
    """A chute in the cluster: its slug, the stored Spec, and the details that Ray Serve reports.

    An application that was not deployed by `chutes deploy` has no Spec.
    """

    slug: str
    spec: Spec | None
    details: dict[str, Any]

    @property
    def name(self) -> str:
        """The chute's name, or the slug if the chute has no Spec."""
        return self.spec.name if self.spec else self.slug

    @property
    def status(self) -> str:
        """Ray Serve's status of the application, in lower case."""
        return state_name(self.details.get("status", "not_started"))

    @property
    def deployment(self) -> dict[str, Any]:
        """Ray Serve's details of the application's only deployment."""
        return dict(self.details.get("deployments", {}).get(DEPLOYMENT, {}))

    @property
    def replicas(self) -> list[dict[str, Any]]:
        """Ray Serve's details of the replicas, the oldest first, with the state in lower case."""
        found = self.deployment.get("replicas", [])
        replicas = [{**each, "state": state_name(each["state"])} for each in found]
        return sorted(replicas, key=lambda each: each.get("start_time_s") or 0)

    @property
    def names(self) -> list[str]:
        """The names that identify this chute: name, slug and id."""
        return [self.slug] if self.spec is None else [self.spec.name, self.slug, self.spec.uid]

    @property
    def module_names(self) -> list[str]:
        """The name of the module that the chute was deployed from, also with dashes. Several chutes may share it."""
        if self.spec is None:
            return []
        return [self.spec.module.rpartition(".")[2].replace("_", "-"), self.spec.module]


def state_name(state: object) -> str:
    """Return a status or state of Ray Serve in lower case. Ray Serve reports text or a member of an enum."""
    return str(getattr(state, "value", state)).lower()


def list_chutes() -> list[DeployedChute]:
    """Return all chutes in the cluster, sorted by name."""
    found = [DeployedChute(slug, load_spec(slug), details) for slug, details in serve_details().items()]
    return sorted(found, key=lambda chute: chute.name.lower())


def find(name: str, known: Sequence[DeployedChute] | None = None) -> DeployedChute:
    """Return the chute with a name, id, slug or module.

    Raise UnknownChute, with the nearest name, if there is none or if several chutes share the module.
    """
    known = list_chutes() if known is None else known
    wanted = name.lower()
    for attribute in ("names", "module_names"):
        found = [chute for chute in known if wanted in [each.lower() for each in getattr(chute, attribute)]]
        if len(found) == 1:
            return found[0]
        if found:
            candidates = ", ".join(chute.name for chute in found)
            raise UnknownChute(f"Several chutes are deployed from {name}: {candidates}. Use the name of one of them.")
    every_name = [each for chute in known for each in (*chute.names, *chute.module_names)]
    deployed = f" Deployed chutes: {', '.join(chute.name for chute in known)}." if known else ""
    raise UnknownChute(f"No chute named {name} is deployed.{did_you_mean(name, every_name) or deployed}")


def serve_details() -> dict[str, Any]:
    """Return Ray Serve's details of each application, by slug."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        client = serve.context._get_global_client()  # noqa: SLF001 - `serve.status()` lacks the names of the actors
    except RayServeException:
        return {}
    return dict(client.get_serve_details().get("applications", {})) if client is not None else {}


def collect_reports(chute: DeployedChute) -> dict[str, dict[str, Any]]:
    """Return the report of each running replica, by replica id.

    Replicas that do not answer in time are missing. See `Replica.record_routing_stats` for the keys of a report.
    """
    import ray

    pending = {}
    for replica in chute.replicas:
        if replica["state"] == "running":
            try:
                actor = ray.get_actor(replica["actor_name"], namespace="serve")
            except ValueError:
                continue
            pending[replica["replica_id"]] = actor.record_routing_stats.remote()
    if pending:
        ray.wait(list(pending.values()), num_returns=len(pending), timeout=_REPLICA_TIMEOUT)
    reports = {}
    for replica_id, reference in pending.items():
        try:
            reports[replica_id] = ray.get(reference, timeout=0.1)
        except ray.exceptions.RayError:
            continue
    return reports


def save_spec(spec: Spec) -> None:
    """Store the Spec of a chute in the cluster's key-value store."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(spec.slug, to_json(spec), overwrite=True, namespace=_NAMESPACE)  # noqa: SLF001


def load_spec(slug: str) -> Spec | None:
    """Return the stored Spec of a chute, or None."""
    from ray.experimental import internal_kv

    stored = internal_kv._internal_kv_get(slug, namespace=_NAMESPACE)  # noqa: SLF001
    return from_json(stored) if stored else None


def delete_spec(slug: str) -> None:
    """Delete the stored Spec of a chute."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(slug, namespace=_NAMESPACE)  # noqa: SLF001
