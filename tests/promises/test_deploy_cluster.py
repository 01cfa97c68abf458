"""A deployed chute runs on a suitable node, and keeps serving during updates, lost replicas, overload and scaling.

The tests share a cluster of real processes. They run in this order, because each starts from the version that the one
before left.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.harness.cluster import WITHOUT_METRICS, Cluster, Load, cluster_folder, wait_for
from benchmarks.harness.waiting import LIMIT

SOURCE = """
chute = Chute(
    username="test", name="draws", image="none", concurrency=1,
    max_replicas=int(os.environ.get("MOST", "1")), scale_up_threshold=10, scale_down_delay=5,
)
running = []

@chute.on_startup()
async def load(self):
    self.progress.update("weights", 1, 2)
    if os.environ.get("FAIL"):
        raise RuntimeError("these weights are for another model")

@chute.cord(public_api_path="/draw")
async def draw(self, seconds: float = 0.1, until: str = "") -> dict:
    running.append(1)
    try:
        await asyncio.sleep(seconds)
        while until and not os.path.exists(until):
            await asyncio.sleep(0.01)
    finally:
        running.pop()
    return {"version": os.environ.get("VERSION"), "pid": os.getpid()}

@chute.get("/running")
async def how_many() -> int:
    return len(running)
"""

NEEDS = """
chute = Chute(username="test", name="needs-{gb}", image="none", node_selector=NodeSelector(min_vram_gb_per_gpu={gb}))

@chute.cord(public_api_path="/where")
async def where(self) -> str:
    import ray
    here = ray.get_runtime_context().get_node_id()
    return next(node["Labels"]["chutes-gpus"] for node in ray.nodes() if node["NodeID"] == here)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head node with two small GPUs, which serves the first version: one replica and a short queue."""
    with cluster_folder() as cluster:
        cluster.env |= WITHOUT_METRICS
        cluster.node("--head", "--host", "0.0.0.0", "--cluster-port", "0", "--fake-gpus", "4090:24,4090:24")
        cluster.preload()
        cluster.write("draws", SOURCE)
        cluster.env["CHUTES_QUEUE_SIZE"] = "8"
        cluster.deploy("draws", "--no-auth", "--env", "VERSION=1")
        assert draw(cluster).json()["version"] == "1"  # the proxy learns the length of the queue with the first request
        yield cluster


def draw(cluster: Cluster, **body: object) -> httpx.Response:
    return cluster.post("test-draws/draw", body)


def in_flight(cluster: Cluster) -> int:
    stats = cluster.get("-/chutes").json()
    return int(stats.get("test-draws", {}).get("in_flight", 0))


def actor(cluster: Cluster, title: str) -> int:
    """Return the process with the title that Ray gives it."""
    for pid in cluster.processes():
        if Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace").startswith(title):
            return pid
    raise AssertionError(f"no {title}")


def replaced(cluster: Cluster, title: str, before: int) -> bool:
    try:
        return actor(cluster, title) != before
    except (AssertionError, OSError):  # it does not exist yet, or a process has just ended
        return False


def deploy_scalable(cluster: Cluster) -> None:
    """Deploy the second version: one to three replicas and a long queue."""
    cluster.env["CHUTES_QUEUE_SIZE"] = "64"
    cluster.env["MOST"] = "3"  # read by the process of the command
    cluster.deploy("draws", "--no-auth", "--env", "VERSION=2")


def test_overload_is_rejected_while_the_queue_is_full(cluster: Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with ThreadPoolExecutor(9) as pool:
        taken = [pool.submit(draw, cluster, until=str(go)) for _ in range(9)]  # one running, eight queued
        wait_for(lambda: in_flight(cluster) == 9)
        for _ in range(20):
            refused = draw(cluster)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["code"] == "queue_full"
            assert cluster.get("test-draws/ready").status_code == 200
        assert not any(each.done() for each in taken)
        go.touch()
        assert [each.result().status_code for each in taken] == [200] * 9


def test_clients_that_disconnect_free_the_replica(cluster: Cluster) -> None:
    chance = random.Random(4)

    def disconnect(_: int) -> None:
        try:
            cluster.client.post(
                cluster.url("test-draws/draw"), json={"seconds": 3600}, timeout=chance.uniform(0.02, 0.3)
            )
        except httpx.TimeoutException:
            return

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(disconnect, range(100)))
    disconnected_at = time.monotonic()
    assert draw(cluster, seconds=0.05).status_code == 200
    took = time.monotonic() - disconnected_at
    wait_for(lambda: cluster.get("test-draws/running").json() == 0)
    wait_for(lambda: in_flight(cluster) == 0)
    print(
        f"100 clients disconnected from requests of an hour; the next one was answered {took:.2f} s later, nothing runs"
    )


def test_a_killed_replica_fails_only_its_running_requests(cluster: Cluster) -> None:
    pid = draw(cluster).json()["pid"]
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(draw, cluster, seconds=3600)
        wait_for(lambda: in_flight(cluster) == 1)
        queued = [pool.submit(draw, cluster) for _ in range(3)]
        wait_for(lambda: in_flight(cluster) == 4)
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        lost = first.result()
        failed_after = time.monotonic() - killed
        answers = [each.result() for each in queued]
    recovered = time.monotonic() - killed
    assert lost.status_code == 502
    assert lost.json()["code"] == "replica_lost"
    assert [each.status_code for each in answers] == [200] * 3
    assert answers[0].json()["pid"] != pid
    print(f"the request failed after {failed_after:.2f} s, 3 queued ones succeeded after {recovered:.1f} s")


def test_a_killed_proxy_is_restarted(cluster: Cluster) -> None:
    before = actor(cluster, "ray::ProxyActor")
    os.kill(before, signal.SIGKILL)
    killed = time.monotonic()

    def answers() -> bool:
        try:
            return draw(cluster).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for(lambda: replaced(cluster, "ray::ProxyActor", before))
    wait_for(answers)
    print(f"after the proxy was killed requests were answered again after {time.monotonic() - killed:.1f} s")


def test_a_new_version_fails_no_request_and_a_broken_one_receives_none(cluster: Cluster) -> None:
    with Load(cluster.url("test-draws/draw"), clients=4) as load:
        deploy_scalable(cluster)
        changed = time.monotonic()
        assert draw(cluster).json()["version"] == "2"
        broken = cluster.deploy("draws", "--no-auth", "--env", "VERSION=3", "--env", "FAIL=1", check=False)
        wait_for(lambda: sum(started_at > changed for started_at, *_ in load.answers) > 20)
    assert broken.returncode == 3
    assert broken.stderr.splitlines()[-1] == ("Error: RuntimeError: these weights are for another model (draws.py:15).")
    assert broken.stdout == ""
    never = cluster.deploy("draws", "--no-auth", "--name", "another", "--env", "FAIL=1", check=False)
    assert never.returncode == 3
    assert [row["name"] for row in json.loads(cluster.chutes("chutes", "list", "--json").stdout)] == ["draws"]
    replicas = {replica for *_, replica in load.answers}
    slowest = max(taken for _, taken, *_ in load.answers)
    print(f"{len(load.answers)} requests during two deploys: {load.count(200)} answered, slowest {slowest:.2f} s")
    assert load.count(200) == len(load.answers)
    assert len(replicas) == 2  # one of each version
    assert draw(cluster).json()["version"] == "2"
    assert cluster.status("draws")["status"] == "running"  # the second version is the target again


def test_a_killed_controller_fails_no_request(cluster: Cluster) -> None:
    before = actor(cluster, "ray::ServeController")
    with Load(cluster.url("test-draws/draw"), clients=2) as load:
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: replaced(cluster, "ray::ServeController", before))
        count = len(load.answers)
        wait_for(lambda: len(load.answers) > count + 10)
    print(f"{load.count(200)} of {len(load.answers)} requests answered while the controller was replaced")
    assert load.count(200) == len(load.answers)
    wait_for(lambda: cluster.status("draws")["status"] == "running")


def test_a_burst_scales_to_three_replicas_and_back_to_one(cluster: Cluster) -> None:
    if draw(cluster).json()["version"] != "2":
        deploy_scalable(cluster)
    timeline: list[tuple[float, int, int]] = []
    watch = cluster.start_chutes("chutes", "status", "draws", "--json", "--watch")
    assert watch.stdout is not None
    started_at = time.monotonic()

    def read() -> None:
        assert watch.stdout is not None
        for line in watch.stdout:
            status = json.loads(line)
            count = sum(each["state"] == "running" for each in status["replicas"])
            timeline.append((time.monotonic() - started_at, count, status["queued"]))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_for(lambda: timeline)
        with Load(cluster.url("test-draws/draw"), clients=40, body={"seconds": 0.5}) as load:
            wait_for(lambda: timeline[-1][1] == 3)
        assert load.count(200) == len(load.answers)
        wait_for(lambda: timeline[-1][1] == 1)
    finally:
        watch.terminate()
        reader.join()
        watch.wait()
        watch.stdout.close()
    counts = [count for _, count, _ in timeline]
    changes = [count for before, count in zip([0, *counts], counts, strict=False) if count != before]
    print("replicas over time:", " ".join(f"{at:.0f}s:{count}" for at, count, _ in timeline))
    assert max(counts) == 3
    assert changes in ([1, 2, 3, 2, 1], [1, 3, 1], [1, 2, 3, 1], [1, 3, 2, 1])  # up, then down, without oscillation

    pid = draw(cluster).json()["pid"]
    cluster.chutes("chutes", "scale", "draws", "2")
    wait_for(lambda: cluster.get("test-draws/ready").json().get("replicas") == 2)
    replicas = cluster.status("draws")["replicas"]
    assert [each["state"] for each in replicas] == ["running"] * 2
    assert pid in [each["pid"] for each in replicas]  # the original replica continues


def test_a_chute_is_placed_by_gpu_memory(cluster: Cluster) -> None:
    cluster.node("--address", cluster.address, "--fake-gpus", "h100_sxm:80")
    for gb in (80, 141):
        cluster.write(f"needs_{gb}", NEEDS.format(gb=gb))

    open_door = cluster.deploy("needs_80", check=False)
    assert open_door.returncode == 1
    assert "an API key is required" in open_door.stderr
    cluster.env["CHUTES_API_KEYS"] = "one-key"

    started_at = time.monotonic()
    cluster.deploy("needs_80")
    seconds = time.monotonic() - started_at
    assert cluster.post("test-needs-80/where").status_code == 401
    assert cluster.post("test-needs-80/where", **{"x-api-key": "one-key"}).json() == "h100_sxm-80"
    said = cluster.chutes("chutes", "logs", "needs-80").stdout
    assert said.count(" Ready ") == 1

    refused_at = time.monotonic()
    refused = cluster.deploy("needs_141", check=False)
    rejected_after = time.monotonic() - refused_at
    assert refused.returncode == 1
    reason = refused.stderr.splitlines()[-1]
    assert "It needs 1 GPU with at least 141 GB" in reason
    assert "2 x 4090 24 GB" in reason
    assert "1 x h100_sxm 80 GB" in reason

    names = [row["name"] for row in json.loads(cluster.chutes("chutes", "list", "--json").stdout)]
    assert [name for name in names if name.startswith("needs-")] == ["needs-80"]
    cluster.nodes[1].terminate()  # the node with the large GPU, which no other node can replace
    cluster.nodes[1].wait(LIMIT)
    nowhere = cluster.deploy("needs_80", check=False)
    assert nowhere.returncode == 1
    assert "2 x 4090 24 GB" in nowhere.stderr
    print(f"placed on the 80 GB GPU in {seconds:.1f} s; 141 GB rejected in {rejected_after:.1f} s: {reason}")
