from types import SimpleNamespace

import pynvml
import pytest
from prometheus_client import REGISTRY

from chutes.server import metrics
from chutes.server.admission import Admission


def test_the_gauges_report_current_values() -> None:
    admission, ready = Admission(3, 1), False
    metrics.bind_gauges("gauges", admission, lambda: ready)

    def value(name: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"chute_id": "gauges"})

    assert [value(f"chutes_{name}") for name in ("in_flight", "queue_depth", "concurrency", "ready")] == [0, 0, 3, 0]
    admission.acquire()
    ready = True
    assert (value("chutes_in_flight"), value("chutes_ready")) == (1, 1)


def test_without_a_driver_there_are_no_gpu_series(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert b"chutes_gpu" not in metrics.exposition()


def test_memory_and_utilization_of_each_gpu_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(handle: int) -> SimpleNamespace:
        if handle == 1:
            raise pynvml.NVMLError_GpuIsLost
        return SimpleNamespace(used=2, total=80)

    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 3,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: b"H200" if handle else "H100",
        "nvmlDeviceGetMemoryInfo": lost,
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=25 * handle),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)
    text = metrics.exposition().decode()
    assert 'chutes_gpu_memory_used_bytes{gpu="0",name="H100"} 2.0' in text
    assert 'chutes_gpu_memory_total_bytes{gpu="2",name="H200"} 80.0' in text
    assert 'chutes_gpu_utilization_ratio{gpu="2",name="H200"} 0.5' in text
    assert 'gpu="1"' not in text
