"""Prometheus metrics: the server's own series, and the memory and utilization of each GPU.

All series are in prometheus_client's default registry, like those of authors and libraries, and `exposition` renders
them. The three `invocation_*` series are defined in `chutes.metrics`.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chutes._gpus import query_gpus
from chutes.metrics import DURATION_BUCKETS
from chutes.server.admission import Admission

in_flight = Gauge("chutes_in_flight", "Running requests and jobs", ["chute_id"])
queue_depth = Gauge("chutes_queue_depth", "Requests and jobs in the queue", ["chute_id"])
concurrency = Gauge("chutes_concurrency", "Number of slots", ["chute_id"])
ready = Gauge("chutes_ready", "1 if the chute accepts requests", ["chute_id"])
queue_wait = Histogram(
    "chutes_queue_wait_seconds", "Seconds that a request waited for a slot", ["chute_id"], buckets=DURATION_BUCKETS
)
rejections = Counter("chutes_rejections", "Rejected and aborted requests", ["chute_id", "reason"])
disconnects = Counter("chutes_disconnects", "Clients that disconnected before the response", ["chute_id", "stage"])


def bind_gauges(chute_id: str, admission: Admission, is_ready: Callable[[], bool]) -> None:
    """Make the gauges of a chute report the current values whenever they are scraped."""
    ready.labels(chute_id).set_function(is_ready)
    in_flight.labels(chute_id).set_function(lambda: admission.running)
    queue_depth.labels(chute_id).set_function(lambda: admission.queued)
    concurrency.labels(chute_id).set(admission.concurrency)


def exposition() -> bytes:
    """Return the default registry as Prometheus text. It queries the GPU driver, so call it in a thread."""
    return generate_latest(REGISTRY)


class _GpuCollector(Collector):
    """A collector of the memory and utilization of each GPU, from NVML. Without a driver there are no series."""

    def describe(self) -> Iterable[Any]:
        return []  # so that registration does not collect

    def collect(self) -> Iterable[GaugeMetricFamily]:
        used = GaugeMetricFamily("chutes_gpu_memory_used_bytes", "GPU memory in use", labels=["gpu", "name"])
        total = GaugeMetricFamily("chutes_gpu_memory_total_bytes", "Total GPU memory", labels=["gpu", "name"])
        busy = GaugeMetricFamily(
            "chutes_gpu_utilization_ratio", "Fraction of time in which a kernel ran", labels=["gpu", "name"]
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


REGISTRY.register(_GpuCollector())
