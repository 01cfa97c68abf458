"""Cost and scaling of a cluster: one small chute under `chutes run` and under `chutes deploy`.

    python -m benchmarks.deploy

Prints the figures, writes them to `results/deploy.json`, and plots the scaling timeline to `docs/deploy-scaling.svg`.
matplotlib is in the `bench` extra.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from benchmarks import results
from benchmarks.harness.cluster import Cluster, Load, cluster_folder, free_port, percentile, wait_for

RESULT = results.RESULTS / "deploy.json"
PLOT = results.ROOT / "docs" / "deploy-scaling.svg"

SOURCE = """
chute = Chute(
    username="test", name="draws", image="none", concurrency=1,
    max_replicas=int(os.environ.get("MOST", "1")), scale_up_threshold=10, scale_down_delay=5,
)

@chute.cord(public_api_path="/draw")
async def draw(self, seconds: float = 0.0) -> dict:
    if seconds:
        await asyncio.sleep(seconds)
    return {}
"""


def latency(url: str, requests: int) -> dict[str, float]:
    """Return p50 and p99 of one client's requests, in milliseconds."""
    taken = []
    with httpx.Client(timeout=30) as client:
        for _ in range(50):
            client.post(url, json={}).raise_for_status()
        for _ in range(requests):
            began = time.perf_counter()
            client.post(url, json={}).raise_for_status()
            taken.append((time.perf_counter() - began) * 1000)
    return {"p50_ms": round(percentile(taken, 50), 2), "p99_ms": round(percentile(taken, 99), 2)}


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """Serve the chute with `chutes run` until the block ends, and yield its URL."""
    port = free_port()
    command = [sys.executable, "-m", "chutes", "run", "draws.py", "--port", str(port)]
    process = subprocess.Popen(command, cwd=cluster.folder, env=cluster.env, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/ready").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(ready)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def memory(cluster: Cluster) -> dict[str, Any]:
    """Return the number of Ray's processes, their resident memory and that of the replica, in MB."""
    total, count, replica = 0, 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    for pid in cluster.processes():
        title = Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page // 1_000_000
        if title.startswith("ray::ServeReplica"):
            replica += resident
        else:
            total += resident
            count += 1
    return {"processes": count, "engine_mb": total, "replica_mb": replica}


def overload(url: str, seconds: float) -> dict[str, Any]:
    """Send ten times the capacity of one replica, at 0.1 s per request."""
    answers: list[tuple[float, int, str | None]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                began = time.monotonic()
                answer = client.post(url, json={"seconds": 0.1})
                taken = time.monotonic() - began
                answers.append((taken, answer.status_code, answer.headers.get("retry-after")))
                stop.wait(max(0.0, 0.2 - taken))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    accepted = [taken for taken, status, _ in answers if status == 200]
    refused = [taken for taken, status, _ in answers if status == 429]
    return {
        "seconds": seconds,
        "requests": len(answers),
        "accepted": len(accepted),
        "accepted_p50_s": round(percentile(accepted, 50), 3),
        "accepted_p99_s": round(percentile(accepted, 99), 3),
        "refused": len(refused),
        "refused_median_ms": round(statistics.median(refused) * 1000, 1),
        "refused_with_retry_after": sum(status == 429 and bool(after) for _, status, after in answers),
        "anything_else": sum(status not in {200, 429} for _, status, _ in answers),
    }


def scaling(cluster: Cluster, steady: float) -> dict[str, Any]:
    """Record replicas and queue over time: a burst of 40 requests of one second, then 12 constant clients."""
    timeline: list[dict[str, float]] = []
    watch = cluster.start_chutes("chutes", "status", "draws", "--json", "--watch")
    assert watch.stdout is not None
    stream = watch.stdout
    began = time.monotonic()

    def read() -> None:
        for line in stream:
            status = json.loads(line)
            count = sum(each["state"] == "running" for each in status["replicas"])
            at = round(time.monotonic() - began, 1)
            timeline.append({"at": at, "replicas": count, "waiting": status["queued"], "running": status["running"]})

    reader = threading.Thread(target=read)
    reader.start()
    url = cluster.url("test-draws/draw")
    try:
        wait_for(lambda: timeline)
        burst_at = time.monotonic() - began
        with ThreadPoolExecutor(40) as pool:
            failed = sum(
                status != 200
                for status in pool.map(
                    lambda _: httpx.post(url, json={"seconds": 1.0}, timeout=90).status_code, range(40)
                )
            )
        done = time.monotonic() - began
        wait_for(lambda: timeline[-1]["replicas"] == 1)
        single_at = time.monotonic() - began
        with Load(url, clients=12, body={"seconds": 0.5}):
            time.sleep(steady)
    finally:
        watch.terminate()
        reader.join()
        watch.wait()
        stream.close()
    steady_samples = [each for each in timeline if single_at < each["at"] <= single_at + steady]
    return {
        "burst_at": round(burst_at, 1),
        "three_after_s": round(next(each["at"] for each in timeline if each["replicas"] == 3) - burst_at, 1),
        "burst_done_after_s": round(done - burst_at, 1),
        "one_again_after_s": round(single_at - burst_at, 1),
        "failed": failed,
        "steady_s": steady,
        "replicas_under_steady_load": [each["replicas"] for each in steady_samples],
        "timeline": timeline,
    }


def plot(measured: dict[str, Any]) -> None:
    """Plot replicas and queued requests over time."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "chutes"
    from matplotlib import pyplot as plt

    times = [each["at"] - measured["burst_at"] for each in measured["timeline"]]
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    axes.fill_between(
        times, [each["waiting"] for each in measured["timeline"]], step="post", alpha=0.3, label="queued requests"
    )
    axes.axhline(10, color="gray", linewidth=0.8, linestyle=":")
    axes.set_xlabel("seconds after the burst of 40 requests")
    axes.set_ylabel("queued requests")
    right = axes.twinx()
    right.step(times, [each["replicas"] for each in measured["timeline"]], where="post", color="C1", label="replicas")
    right.set_ylim(0, 4)
    right.set_yticks(range(5))
    right.set_ylabel("replicas")
    figure.legend(loc="outside upper right", ncols=2)
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> int:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1000, help="requests of the latency measurement")
    parser.add_argument("--seconds", type=float, default=30, help="duration of overload and of constant load")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    result: dict[str, Any] = {
        **results.provenance(),
        "ray": version("ray"),
    }
    with cluster_folder() as cluster:
        cluster.write("draws", SOURCE)
        cluster.env["CHUTES_QUEUE_SIZE"] = "8"
        began = time.monotonic()
        with serving(cluster) as url:
            result["run_start_s"] = round(time.monotonic() - began, 1)
            result["run"] = latency(f"{url}/draw", given.requests)
        began = time.monotonic()
        cluster.deploy("draws")
        result["first_deploy_s"] = round(time.monotonic() - began, 1)
        result["deployed"] = latency(cluster.url("test-draws/draw"), given.requests)
        result["memory"] = memory(cluster)
        began = time.monotonic()
        cluster.deploy("draws")
        result["second_deploy_s"] = round(time.monotonic() - began, 1)
        result["overload"] = overload(cluster.url("test-draws/draw"), given.seconds)
        cluster.env |= {"CHUTES_QUEUE_SIZE": "64", "MOST": "3"}
        cluster.deploy("draws")
        result["scaling"] = scaling(cluster, given.seconds)
        began = time.monotonic()
        cluster.chutes("chutes", "delete", "draws")
        result["delete_s"] = round(time.monotonic() - began, 1)
        result["processes_left"] = len(cluster.processes())
    print(json.dumps({**result, "scaling": {**result["scaling"], "timeline": "..."}}, indent=2))
    plot(result["scaling"])
    results.write(given.output, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
