"""A chute runs on a node with suitable GPUs, and is rejected with the reason if there is none."""

import json
import time

from benchmarks.harness.cluster import cluster_folder
from benchmarks.harness.waiting import LIMIT

SOURCE = """
chute = Chute(username="test", name="needs-{gb}", image="none", node_selector=NodeSelector(min_vram_gb_per_gpu={gb}))

@chute.cord(public_api_path="/where")
async def where(self) -> str:
    import ray
    here = ray.get_runtime_context().get_node_id()
    return next(node["Labels"]["chutes-gpus"] for node in ray.nodes() if node["NodeID"] == here)
"""


def test_a_chute_is_placed_by_gpu_memory() -> None:
    with cluster_folder() as cluster:
        address = cluster.node("--head", "--host", "0.0.0.0", "--cluster-port", "0", "--fake-gpus", "4090:24,4090:24")
        cluster.node("--address", address, "--fake-gpus", "h100_sxm:80")
        for gb in (20, 80, 141):
            cluster.write(f"needs_{gb}", SOURCE.format(gb=gb))

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
        assert names == ["needs-80"]
        cluster.nodes[1].terminate()  # the node with the large GPU, which no other node can replace
        cluster.nodes[1].wait(LIMIT)
        nowhere = cluster.deploy("needs_80", check=False)
        assert nowhere.returncode == 1
        assert "2 x 4090 24 GB" in nowhere.stderr
        print(f"placed on the 80 GB GPU in {seconds:.1f} s; 141 GB rejected in {rejected_after:.1f} s: {reason}")
