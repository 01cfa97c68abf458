"""The statistics that `chutes chutes status` and `chutes chutes metrics` show.

Replicas report what they run. The HTTP proxy reports the traffic, because only the proxy sees queued requests.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from chutes.deploy.cluster import PROXY_HEADERS, STATS_PATH, loopback_url
from chutes.deploy.registry import DeployedChute, collect_reports

_NO_TRAFFIC = {
    "in_flight": 0,
    "requests": 0,
    "per_minute": 0.0,
    "errors": 0,
    "rejected": 0,
    "disconnected": 0,
    "latency_seconds": {},
}


def traffic(slug: str, http_address: tuple[str, int]) -> dict[str, Any]:
    """Return the proxy's statistics of a chute's recent requests. All values are None if the proxy does not answer."""
    try:
        # An HTTP proxy named in the environment could not reach this server.
        url = f"{loopback_url(http_address)}{STATS_PATH}"
        by_slug = httpx.get(url, headers=PROXY_HEADERS, timeout=5, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return dict.fromkeys(_NO_TRAFFIC)
    return {**_NO_TRAFFIC, **by_slug.get(slug, {})}


def status(chute: DeployedChute, http_address: tuple[str, int]) -> dict[str, Any]:
    """Return the replicas of a chute with their states, its queue, and its recent requests."""
    reports = collect_reports(chute)
    recent = traffic(chute.slug, http_address)
    running = sum(each["running"] for each in reports.values())
    return {
        "name": chute.name,
        "status": chute.status,
        "message": chute.details.get("message", ""),
        "replicas": [_replica_status(each, reports.get(each["replica_id"], {})) for each in chute.replicas],
        "target_replicas": chute.deployment.get("target_num_replicas", 0),
        "running": running,
        "queued": _queued(recent.pop("in_flight"), running),
        **recent,
    }


def _queued(in_flight: int | None, running: int) -> int | None:
    return None if in_flight is None else max(0, in_flight - running)


def _replica_status(replica: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": replica["replica_id"],
        "state": replica["state"],
        "node": replica.get("node_ip"),
        "node_id": replica.get("node_id"),
        "pid": replica.get("pid"),
        "since": replica.get("start_time_s"),
        "running": report.get("running"),
        "concurrency": report.get("concurrency"),
        **({"info": report["info"]} if report.get("info") else {}),
    }


def metrics(chute: DeployedChute, http_address: tuple[str, int]) -> dict[str, Any]:
    """Return the queue and latencies of a chute, and the GPUs, images and steps of each replica."""
    reports = collect_reports(chute)
    recent = traffic(chute.slug, http_address)
    running = sum(each["running"] for each in reports.values())
    return {
        "name": chute.name,
        "queued": _queued(recent["in_flight"], running),
        "running": running,
        "per_minute": recent["per_minute"],
        "latency_seconds": recent["latency_seconds"],
        "replicas": {replica: _replica_metrics(report) for replica, report in reports.items()},
    }


def _replica_metrics(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return one replica's metrics from its report. Rates are per second of image generation, without idle time."""
    samples = list(_samples(report["metrics"]))
    totals: defaultdict[str, float] = defaultdict(float)
    for name, _, value in samples:
        totals[name] += value
    images, steps = totals["imagegen_images_total"], totals["imagegen_steps_total"]
    busy = totals["imagegen_busy_seconds_total"]
    indices = {each.strip() for each in report["gpus"].split(",") if each.strip()}
    return {
        "running": report["running"],
        "gpus": _gpus(samples, indices),
        "images": int(images),
        "images_per_second": round(images / busy, 3) if busy else 0.0,
        "steps_per_second": round(steps / busy, 2) if busy else 0.0,
    }


def _gpus(samples: Iterable[tuple[str, Mapping[str, str], float]], indices: set[str]) -> list[dict[str, Any]]:
    """Return the GPUs with these indices. Without indices, return every GPU of the node, as the driver reports them."""
    names = {
        "chutes_gpu_utilization_ratio": "utilization",
        "chutes_gpu_memory_used_bytes": "memory_used_bytes",
        "chutes_gpu_memory_total_bytes": "memory_total_bytes",
    }
    gpus: dict[str, dict[str, Any]] = {}
    for name, labels, value in samples:
        if name in names and (not indices or labels["gpu"] in indices):
            gpus.setdefault(labels["gpu"], {"gpu": labels["gpu"], "name": labels["name"]})[names[name]] = value
    return list(gpus.values())


def _samples(text: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def prometheus(chute: DeployedChute) -> str:
    """Return the metrics of all replicas as Prometheus text, with the replica's id as a label."""
    families: dict[str, list[str]] = {}
    comments: dict[str, list[str]] = {}
    for replica, report in collect_reports(chute).items():
        for family in text_string_to_metric_families(report["metrics"]):
            # The parser strips `_total` from a counter's name, but the text format requires it.
            name = f"{family.name}_total" if family.type == "counter" else family.name
            comments.setdefault(family.name, [f"# HELP {name} {family.documentation}", f"# TYPE {name} {family.type}"])
            for sample in family.samples:
                labels = {**sample.labels, "replica": replica}
                label_text = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
                families.setdefault(family.name, []).append(f"{sample.name}{{{label_text}}} {sample.value}")
    return "".join("\n".join([*comments[name], *lines]) + "\n" for name, lines in families.items())


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
