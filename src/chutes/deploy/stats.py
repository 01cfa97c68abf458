"""What `chutes chutes status` and `metrics` show: from the replicas, and from the proxy that saw the queue."""

from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from chutes.deploy.cluster import ITSELF, loopback_url
from chutes.deploy.proxy import STATS_PATH
from chutes.deploy.registry import DeployedChute, ask_replicas

_NOTHING = {
    "in_flight": 0,
    "requests": 0,
    "per_minute": 0.0,
    "errors": 0,
    "rejected": 0,
    "left": 0,
    "latency_seconds": {},
}


def traffic(slug: str, http: tuple[str, int]) -> dict[str, Any]:
    """What went through the proxy in the last minutes; all None if it does not answer."""
    try:
        # Not through a proxy of the environment: it could not reach this one.
        told = httpx.get(f"{loopback_url(http)}{STATS_PATH}", headers=ITSELF, timeout=5, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return dict.fromkeys(_NOTHING)
    return {**_NOTHING, **told.get(slug, {})}


def status(chute: DeployedChute, http: tuple[str, int]) -> dict[str, Any]:
    """Replicas and their states, the queue, and the last minutes."""
    asked = ask_replicas(chute)
    seen = traffic(chute.slug, http)
    running = sum(each["running"] for each in asked.values())
    return {
        "name": chute.name,
        "status": chute.status,
        "message": chute.details.get("message", ""),
        "replicas": [_replica(each, asked.get(each["replica_id"], {})) for each in chute.replicas],
        "target_replicas": chute.deployment.get("target_num_replicas", 0),
        "running": running,
        "queued": _queued(seen.pop("in_flight"), running),
        **seen,
    }


def _queued(in_flight: int | None, running: int) -> int | None:
    return None if in_flight is None else max(0, in_flight - running)


def _replica(replica: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": replica["replica_id"],
        "state": replica["state"],
        "node": replica.get("node_ip"),
        "node_id": replica.get("node_id"),
        "pid": replica.get("pid"),
        "since": replica.get("start_time_s"),
        "running": said.get("running"),
        "concurrency": said.get("concurrency"),
        **({"info": said["info"]} if said.get("info") else {}),
    }


def metrics(chute: DeployedChute, http: tuple[str, int]) -> dict[str, Any]:
    """GPUs, images and steps of each replica, the queue, and the latencies."""
    asked = ask_replicas(chute)
    seen = traffic(chute.slug, http)
    running = sum(each["running"] for each in asked.values())
    return {
        "name": chute.name,
        "queued": _queued(seen["in_flight"], running),
        "running": running,
        "per_minute": seen["per_minute"],
        "latency_seconds": seen["latency_seconds"],
        "replicas": {replica: _figures(said) for replica, said in asked.items()},
    }


def _figures(said: Mapping[str, Any]) -> dict[str, Any]:
    """One replica's, from its own Prometheus text. Rates are over the time that it was drawing."""
    series = list(_samples(said["metrics"]))
    total = {name: sum(value for other, _, value in series if other == name) for name, _, _ in series}
    busy = total.get("imagegen_busy_seconds_total", 0.0)
    mine = {each.strip() for each in said["gpus"].split(",") if each.strip()}
    return {
        "running": said["running"],
        "gpus": _gpus(series, mine),
        "images": int(total.get("imagegen_images_total", 0)),
        "images_per_second": round(total.get("imagegen_images_total", 0.0) / busy, 3) if busy else 0.0,
        "steps_per_second": round(total.get("imagegen_steps_total", 0.0) / busy, 2) if busy else 0.0,
    }


def _gpus(series: Iterable[tuple[str, Mapping[str, str], float]], mine: set[str]) -> list[dict[str, Any]]:
    """The cards that this replica was given; the driver also tells of the others."""
    names = {
        "chutes_gpu_utilization_ratio": "utilization",
        "chutes_gpu_memory_used_bytes": "memory_used_bytes",
        "chutes_gpu_memory_total_bytes": "memory_total_bytes",
    }
    cards: dict[str, dict[str, Any]] = {}
    for name, labels, value in series:
        if name in names and (not mine or labels["gpu"] in mine):
            cards.setdefault(labels["gpu"], {"gpu": labels["gpu"], "name": labels["name"]})[names[name]] = value
    return list(cards.values())


def _samples(text: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def prometheus(chute: DeployedChute) -> str:
    """The series of all replicas, each with its replica as a label, as Prometheus text."""
    families: dict[str, list[str]] = {}
    heads: dict[str, list[str]] = {}
    for replica, said in ask_replicas(chute).items():
        for family in text_string_to_metric_families(said["metrics"]):
            # The parser calls a counter's family without the `_total` that this format wants it to have.
            name = f"{family.name}_total" if family.type == "counter" else family.name
            heads.setdefault(family.name, [f"# HELP {name} {family.documentation}", f"# TYPE {name} {family.type}"])
            for sample in family.samples:
                labels = {**sample.labels, "replica": replica}
                inside = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
                families.setdefault(family.name, []).append(f"{sample.name}{{{inside}}} {sample.value}")
    return "".join("\n".join([*heads[name], *lines]) + "\n" for name, lines in families.items())


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
