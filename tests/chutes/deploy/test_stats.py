import json
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from benchmarks.harness.waiting import LIMIT
from chutes.cli import _tables as tables
from chutes.deploy import stats
from chutes.deploy.registry import DeployedChute

TEXT = """\
# HELP imagegen_images_total Finished images.
# TYPE imagegen_images_total counter
imagegen_images_total{task="generate"} 6.0
imagegen_images_total{task="inpaint"} 2.0
# HELP imagegen_steps_total Denoising steps done.
# TYPE imagegen_steps_total counter
imagegen_steps_total 80.0
# HELP imagegen_busy_seconds_total Seconds drawing.
# TYPE imagegen_busy_seconds_total counter
imagegen_busy_seconds_total 16.0
# HELP chutes_gpu_memory_used_bytes GPU memory in use
# TYPE chutes_gpu_memory_used_bytes gauge
chutes_gpu_memory_used_bytes{gpu="0",name="NVIDIA \\"H100\\""} 1.0
chutes_gpu_memory_used_bytes{gpu="1",name="NVIDIA H100"} 2.0
# HELP chutes_gpu_utilization_ratio Part of the time a kernel ran
# TYPE chutes_gpu_utilization_ratio gauge
chutes_gpu_utilization_ratio{gpu="1",name="NVIDIA H100"} 0.5
"""
REPORT = {"running": 1, "concurrency": 1, "info": {"model": "m"}, "gpus": "1", "metrics": TEXT}
CHUTE = DeployedChute(
    "slug",
    None,
    {
        "status": "RUNNING",
        "deployments": {
            "chute": {
                "target_num_replicas": 2,
                "replicas": [
                    {"replica_id": "a", "state": "RUNNING", "node_ip": "n", "pid": 1, "start_time_s": 1.0},
                    {"replica_id": "b", "state": "STARTING", "start_time_s": 2.0},
                ],
            }
        },
    },
)


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "collect_reports", lambda chute: {"a": REPORT})
    monkeypatch.setattr(
        stats, "traffic", lambda slug, http: {**stats._NO_TRAFFIC, "in_flight": 4, "latency_seconds": {"p50": 1.0}}
    )


def test_status_of_a_chute() -> None:
    result = stats.status(CHUTE, ("127.0.0.1", 1))
    assert (result["running"], result["queued"], result["target_replicas"]) == (1, 3, 2)
    assert [(each["id"], each["state"], each["running"]) for each in result["replicas"]] == [
        ("a", "running", 1),
        ("b", "starting", None),
    ]


def test_metrics_are_those_of_the_replicas_own_gpus() -> None:
    result = stats.metrics(CHUTE, ("127.0.0.1", 1))["replicas"]["a"]
    assert (result["images"], result["images_per_second"], result["steps_per_second"]) == (8, 0.5, 5.0)
    assert result["gpus"] == [{"gpu": "1", "name": "NVIDIA H100", "memory_used_bytes": 2.0, "utilization": 0.5}]


def test_prometheus_text_has_the_series_of_all_replicas() -> None:
    families = {each.name: each for each in text_string_to_metric_families(stats.prometheus(CHUTE))}
    assert families["imagegen_images"].type == "counter"
    assert [sample.labels for sample in families["imagegen_images"].samples] == [
        {"task": "generate", "replica": "a"},
        {"task": "inpaint", "replica": "a"},
    ]
    assert families["chutes_gpu_memory_used_bytes"].samples[0].labels["name"] == 'NVIDIA "H100"'


def test_without_a_proxy_the_traffic_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(stats, "collect_reports", lambda chute: {})
    result = stats.status(CHUTE, ("127.0.0.1", 9))
    assert {result[name] for name in ("queued", "requests", "errors", "disconnected", "per_minute")} == {None}
    assert "does not answer" in shown(tables.status(result))
    assert "does not answer" in shown(tables.metrics(stats.metrics(CHUTE, ("127.0.0.1", 9))))


def test_an_http_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Statistics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"slug": {"requests": 7}}).encode())

    monkeypatch.undo()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Statistics) as server, ThreadPoolExecutor(1) as thread:
        server.timeout = LIMIT
        thread.submit(server.handle_request)
        assert stats.traffic("slug", server.server_address)["requests"] == 7


def shown(table: object) -> str:
    console = Console(record=True, width=200, file=StringIO())
    console.print(table)
    return console.export_text()
