"""What is measured, for Prometheus: the runtime's own series, and memory and utilisation of each GPU.

Everything registers with prometheus_client's default registry, where authors and libraries register theirs, and
`exposition` renders all of it. The three `invocation_*` series are defined in `chutes.metrics`.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chutes._gpus import query_gpus
from chutes.metrics import SECONDS
from chutes.server.admission import Admission

in_flight = Gauge("chutes_in_flight", "Requests and jobs whose handler runs now", ["chute_id"])
queue_depth = Gauge("chutes_queue_depth", "Requests and jobs waiting for a slot", ["chute_id"])
concurrency = Gauge("chutes_concurrency", "Slots of this chute", ["chute_id"])
ready = Gauge("chutes_ready", "1 when the chute takes requests", ["chute_id"])
queue_wait = Histogram("chutes_queue_wait_seconds", "Time spent waiting for a slot", ["chute_id"], buckets=SECONDS)
rejections = Counter("chutes_rejections", "Requests refused or cut off, by reason", ["chute_id", "reason"])
disconnects = Counter("chutes_disconnects", "Clients that left before their answer", ["chute_id", "stage"])


def observe(chute_id: str, admission: Admission, is_ready: Callable[[], bool]) -> None:
    """Let the gauges of this chute be read from the source whenever they are scraped."""
    ready.labels(chute_id).set_function(is_ready)
    in_flight.labels(chute_id).set_function(lambda: admission.running)
    queue_depth.labels(chute_id).set_function(lambda: admission.queued)
    concurrency.labels(chute_id).set(admission.concurrency)


def exposition() -> bytes:
    """Everything in the default registry, as Prometheus text. Asks the GPU driver: call it in a thread."""
    return generate_latest(REGISTRY)


class _Gpus(Collector):
    """Memory and utilisation of each GPU from NVML; without a driver there are no series."""

    def describe(self) -> Iterable[Any]:
        return []  # so that registering doesn't collect

    def collect(self) -> Iterable[GaugeMetricFamily]:
        used = GaugeMetricFamily("chutes_gpu_memory_used_bytes", "GPU memory in use", labels=["gpu", "name"])
        total = GaugeMetricFamily("chutes_gpu_memory_total_bytes", "GPU memory there is", labels=["gpu", "name"])
        busy = GaugeMetricFamily(
            "chutes_gpu_utilization_ratio", "Part of the time a kernel ran", labels=["gpu", "name"]
        )
        gpus = query_gpus()
        for gpu in gpus:
            labels = [str(gpu.index), gpu.name]
            used.add_metric(labels, gpu.memory_used)
            total.add_metric(labels, gpu.memory_total)
            if gpu.utilization is not None:
                busy.add_metric(labels, gpu.utilization)
        if gpus:
            yield from (used, total, busy)


REGISTRY.register(_Gpus())
