import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Scope

from chutes.deploy import replica
from chutes.deploy.package import Package, pack
from chutes.deploy.replica import BY_HOST_HEADER, LoadFailed, Replica, ReplicaApp, ReplicaConfig, _without_root
from chutes.loader import load_chute

SOURCE = """
import asyncio
from chutes.chute import Chute
chute = Chute(username="a", name="b", image="c")

@chute.on_startup()
async def load(self):
    {load}

@chute.on_shutdown()
async def stop(self):
    await asyncio.sleep({stop_seconds})
    open("stopped", "w").close()

@chute.cord(public_api_path="/say")
async def say(self) -> str:
    return self.word

@chute.job()
async def work(self):
    await asyncio.sleep(0.5)
    open("worked", "w").close()
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(replica, "_replica_id", lambda: "r1")
    monkeypatch.setattr(replica, "log_to_file", lambda *_: None)
    monkeypatch.setenv("CHUTES_KEYS_FILE", str(tmp_path / "keys.json"))
    monkeypatch.setenv("CHUTES_EXECUTION_CONTEXT", "REMOTE")
    yield
    sys.modules.pop("replicated", None)


def packed(load: str, stop_seconds: float = 0) -> Package:
    Path("replicated.py").write_text(SOURCE.format(load=load, stop_seconds=stop_seconds))
    load_chute("replicated")
    return pack("replicated")


async def build(package: Package) -> tuple[Replica, ReplicaApp]:
    actor = Replica(ReplicaConfig("slug", package.entry, package.content))
    return actor, await actor.__serve_build_asgi_app__()


async def lifespan(app: ReplicaApp, stopping: asyncio.Event) -> list[str]:
    sent: list[str] = []

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async def receive() -> Message:
        if sent:
            await stopping.wait()
        return {"type": "lifespan.shutdown" if sent else "lifespan.startup"}

    await app({"type": "lifespan"}, receive, send)
    return sent


async def get(app: ReplicaApp, path: str, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
    sent = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": method, "path": path, "root_path": "/slug", "headers": [], "query_string": b""}
    await app({**scope, "client": ("127.0.0.1", 1)}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_a_replica_is_ready_after_its_hooks() -> None:
    async def live() -> Any:
        actor, app = await build(packed("self.word = 'loaded'; self.info['model'] = 'm'"))
        stopping = asyncio.Event()
        life = asyncio.create_task(lifespan(app, stopping))
        actor.check_health()
        status, headers, body = await get(app, "/slug/ready")
        report = await actor.record_routing_stats()
        stopping.set()
        assert await life == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        return status, headers[replica.REPLICA_HEADER], body, report

    status, mark, body, report = asyncio.run(live())
    assert Path("stopped").exists()  # the shutdown hook has run
    assert (status, mark, body) == (200, b"r1", b'{"status":"ready","model":"m"}')
    assert (report["state"], report["running"], report["info"]) == ("ready", 0, {"model": "m"})
    assert report["chute_probes"] == []
    assert "chutes_concurrency" in report["metrics"]


def test_a_replica_finishes_its_jobs() -> None:
    async def live() -> Any:
        _, app = await build(packed("self.word = ''"))
        stopping = asyncio.Event()
        life = asyncio.create_task(lifespan(app, stopping))
        status, headers, _ = await get(app, "/slug/jobs/work", "POST")
        await asyncio.sleep(0.1)
        stopping.set()
        await life
        return status, headers[b"location"]

    status, location = asyncio.run(live())
    assert status == 202
    assert location.startswith(b"/slug/jobs/")
    assert Path("worked").exists()
    assert Path("stopped").exists()


def test_a_short_grace_period_does_not_limit_the_shutdown_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_DRAIN_GRACE", "0.05")

    async def live() -> None:
        _, app = await build(packed("self.word = ''", stop_seconds=0.3))
        stopping = asyncio.Event()
        stopping.set()
        await lifespan(app, stopping)

    asyncio.run(live())
    assert Path("stopped").exists()


def test_the_error_of_a_hook_is_the_failure() -> None:
    with pytest.raises(LoadFailed, match=r"^RuntimeError: no weights \(replicated\.py:8\)$"):
        asyncio.run(build(packed("raise RuntimeError('no weights')")))


def test_a_missing_module_is_the_failure() -> None:
    broken = packed("self.word = ''")
    Path("replicated.py").unlink()
    with pytest.raises(LoadFailed, match="There is no module elsewhere"):
        asyncio.run(build(Package("elsewhere:chute", (), broken.content)))


@pytest.mark.parametrize(
    ("scope", "path", "root"),
    [
        ({"root_path": "/slug", "path": "/slug/say", "headers": []}, "/say", "/slug"),
        ({"root_path": "/slug", "path": "/slug", "headers": []}, "/", "/slug"),
        ({"root_path": "/slug", "path": "/slug/say", "headers": [(BY_HOST_HEADER, b"1")]}, "/say", ""),
        ({"root_path": "", "path": "/say", "headers": []}, "/say", ""),
    ],
)
def test_paths_are_those_without_a_cluster(scope: Scope, path: str, root: str) -> None:
    seen = _without_root(scope)
    assert (seen["path"], seen["root_path"]) == (path, root)
