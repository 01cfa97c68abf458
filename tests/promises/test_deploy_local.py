"""`chutes deploy` starts a local cluster if there is none, and deleting the last chute stops it."""

import contextlib
import ipaddress
import json
import time
from pathlib import Path

from benchmarks.harness.cluster import WITHOUT_METRICS, Cluster, cluster_folder, wait_for
from chutes.deploy.cluster import LOOPBACK_ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]

SOURCE = """
from beside import WORD

chute = Chute(username="test", name="Small One", image="none")

@chute.on_startup()
async def load(self):
    from later import NUMBER
    self.number = NUMBER
    self.info["model"] = "small"

@chute.on_shutdown()
async def leave(self):
    with open(os.environ["BYE"], "w") as file:
        file.write("bye")

@chute.cord(public_api_path="/count", stream=True)
async def count(self):
    yield {"number": 0}
    while not os.path.exists(os.environ["SEEN"]):
        await asyncio.sleep(0.01)
    yield {"number": 1}

@chute.cord(public_api_path="/say")
async def say(self, word: str = "") -> dict:
    print("saying", WORD)
    return {"word": word or WORD, "number": self.number, "given": os.environ.get("GIVEN")}
"""


def listening(pids: list[int]) -> set[tuple[int, str]]:
    """Return the process and address of every listening TCP socket of these processes."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = row.split()
            if state == "0A":
                words = [bytes.fromhex(local[at : at + 8])[::-1] for at in range(0, local.index(":"), 8)]
                address = ipaddress.ip_address(b"".join(words))
                addresses[f"socket:[{rest[5]}]"] = str(getattr(address, "ipv4_mapped", None) or address)
    found = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                if (link := str(descriptor.readlink())) in addresses:
                    found.add((pid, addresses[link]))
    return found


def check_origins(cluster: Cluster) -> None:
    """The cluster accepts this machine and pages of the configured origins."""
    elsewhere = {pid for pid, address in listening(cluster.processes()) if address != "127.0.0.1"}
    # Ray Serve's replicas listen on all interfaces, but require the cluster's token.
    names = {Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0") for pid in elsewhere}
    assert names <= {"ray::ServeReplica:test-small-one:chute"}
    foreign = {"Origin": "http://evil.example"}
    for path, headers in (("test-small-one/say", foreign), ("say", {"Host": "test-small-one.evil.example"})):
        refused = cluster.client.post(cluster.url(path), headers=headers)
        assert (refused.status_code, "_not_allowed" in refused.text) == (403, True)
    assert cluster.client.get(cluster.url("-/chutes"), headers=foreign).status_code == 403
    page = {"Origin": "https://app.example"}
    preflight = {"Access-Control-Request-Method": "POST"}
    for answer in (
        cluster.client.options(cluster.url("test-small-one/say"), headers={**page, **preflight}),
        cluster.client.get(cluster.url("test-small-one/ready"), headers=page),
        cluster.client.post(cluster.url("test-small-one/say"), json={}, headers=page),
        cluster.client.post(cluster.url("test-small-one/say"), json={"word": []}, headers=page),
    ):
        assert answer.headers.get_list("access-control-allow-origin") == ["https://app.example"]
    assert cluster.client.get(cluster.url("test-small-one/say/")).headers["location"] == "/test-small-one/say"
    assert (
        cluster.client.get(cluster.url("say/"), headers={"Host": "test-small-one.localhost"}).headers["location"]
        == "/say"
    )


def check_commands(cluster: Cluster, url: str) -> None:
    """The commands that inspect a chute know this one. The first starts as users start it, the others preloaded."""
    [row] = json.loads(cluster.chutes("chutes", "list", "--json").stdout)
    assert (row["name"], row["status"], row["replicas"], row["url"]) == ("Small One", "running", 1, url)
    cluster.preload(LOOPBACK_ENVIRONMENT)
    description = json.loads(cluster.chutes("chutes", "get", "small-one", "--json").stdout)
    assert description["files"] == ["beside.py", "later.py", "small_one.py"]
    assert "saying beside" in cluster.chutes("chutes", "logs", "small-one", "--tail", "20").stdout
    wrong = cluster.chutes("chutes", "get", "smal-one", check=False)
    assert wrong.returncode == 1
    assert "Did you mean 'small-one'?" in wrong.stderr


def test_a_chute_is_deployed_called_and_deleted(bundled: Path, tmp_path: Path) -> None:
    bye, seen = tmp_path / "bye", tmp_path / "seen"
    with cluster_folder() as cluster:
        cluster.env |= WITHOUT_METRICS
        cluster.write("small_one", SOURCE)
        (cluster.folder / "beside.py").write_text("WORD = 'beside'\n")
        (cluster.folder / "later.py").write_text("NUMBER = 7\n")

        started_at = time.monotonic()
        done = cluster.deploy(
            "small_one:chute",
            "--env",
            "GIVEN=here",
            "--env",
            f"BYE={bye}",
            "--env",
            f"SEEN={seen}",
            "--env",
            "CHUTES_CORS_ORIGINS=https://app.example",
        )
        seconds = time.monotonic() - started_at
        url = done.stdout.strip()
        assert url == f"http://localhost:{cluster.port}/test-small-one"
        assert "ready" in done.stderr

        expected = {"word": "beside", "number": 7, "given": "here"}
        assert cluster.post("test-small-one/say").json() == expected
        assert cluster.post("say", host=f"test-small-one.localhost:{cluster.port}").json() == expected
        answer = cluster.get("test-small-one/ready")
        assert (answer.status_code, answer.json()["model"]) == (200, "small")
        assert cluster.get("test-small-one/health").json() == {"status": "ok"}
        with cluster.client.stream("POST", cluster.url("test-small-one/count"), json={}) as stream:
            lines = stream.iter_lines()
            assert json.loads(next(lines)) == {"number": 0}
            seen.touch()  # the second line is written only after the first has been read
            assert [json.loads(line) for line in lines] == [{"number": 1}]

        check_origins(cluster)

        nothing = cluster.get("nothing/here")
        assert nothing.status_code == 404
        assert set(nothing.json()) == {"detail", "code"}

        check_commands(cluster, url)
        cluster.chutes("deploy", "chutes_app:chute", "--env", f"IMAGEGEN_MODEL={bundled}", cwd=ROOT)
        body = {"prompt": "a lighthouse", "width": 128, "height": 128, "num_inference_steps": 2, "seed": 7}
        picture = cluster.post("myuser-flux-1-dev-generator/generate", body)
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/jpeg")
        assert picture.headers["x-seed"] == "7"
        again = cluster.post("myuser-flux-1-dev-generator/generate", body)
        assert again.content == picture.content
        cluster.chutes("chutes", "delete", "chutes-app")
        assert cluster.post("test-small-one/say").json() == expected

        alive = len(cluster.processes())
        started_at = time.monotonic()
        cluster.chutes("chutes", "delete", "small-one")
        ended = time.monotonic() - started_at
        wait_for(lambda: not cluster.processes())
        assert bye.read_text() == "bye"  # written by the shutdown hook
        print(f"deployed in {seconds:.1f} s with {alive} processes, deleted in {ended:.1f} s, nothing left")
