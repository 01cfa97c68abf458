import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from chutes.deploy import probes


class Remote:
    """An actor's method: `.remote()` can be awaited."""

    def __init__(self, value: Any) -> None:
        self._value = value

    async def remote(self) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class Actor:
    def __init__(self, **methods: Any) -> None:
        for name, value in methods.items():
            setattr(self, name, Remote(value))


def ask(
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    *,
    replicas: Sequence[str] = (),
    status: str = "RUNNING",
    own: Sequence[str] = (),
    broken: bool = False,
) -> tuple[int, Any] | None:
    application = {
        "status": status,
        "deployments": {"chute": {"replicas": [{"state": state, "actor_name": "r"} for state in replicas]}},
    }
    details = RuntimeError("gone") if broken else {"applications": {"slug": application}}
    report = {"chute_probes": list(own), "info": {"model": "m"}}

    async def actor(name: str) -> Actor:
        return Actor(get_serve_instance_details=details, record_routing_stats=report)

    monkeypatch.setattr(probes, "_actor", actor)
    answer = asyncio.run(probes.answer(path))
    return None if answer is None else (answer.status_code, json.loads(answer.body))


def test_probes_of_a_running_chute(monkeypatch: pytest.MonkeyPatch) -> None:
    running = ["STARTING", "RUNNING", "RUNNING"]
    assert ask(monkeypatch, "/slug/ready", replicas=running) == (200, {"status": "ready", "replicas": 2, "model": "m"})
    assert ask(monkeypatch, "/slug/health", replicas=running) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("status", "ready", "health"), [("DEPLOYING", "loading", 200), ("DEPLOY_FAILED", "failed", 503)]
)
def test_probes_without_a_running_replica(
    monkeypatch: pytest.MonkeyPatch, status: str, ready: str, health: int
) -> None:
    assert ask(monkeypatch, "/slug/ready", status=status) == (503, {"status": ready})
    assert ask(monkeypatch, "/slug/health", status=status)[0] == health


@pytest.mark.parametrize("path", ["/slug/draw", "/slug", "/other/ready", "/slug/v1/ready", "/ready"])
def test_other_paths_are_not_probes(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    assert ask(monkeypatch, path, replicas=["RUNNING"]) is None


def test_a_chutes_own_probe_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, "/slug/ready", replicas=["RUNNING"], own=["/ready"]) is None
    assert ask(monkeypatch, "/slug/health", replicas=["RUNNING"], own=["/ready"]) == (200, {"status": "ok"})


def test_probes_while_the_controller_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, "/slug/ready", broken=True) == (503, {"status": "unknown"})
    assert ask(monkeypatch, "/slug/health", broken=True) == (200, {"status": "ok"})


def test_concurrent_probes_share_their_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    queried = []

    class Slow(Remote):
        async def remote(self) -> Any:
            queried.append(self)
            await asyncio.sleep(0.01)
            return await super().remote()

    async def actor(name: str) -> Actor:
        made = Actor()
        deployments = {"chute": {"replicas": [{"state": "RUNNING", "actor_name": "r"}]}}
        applications = {"slug": {"status": "RUNNING", "deployments": deployments}}
        vars(made)["get_serve_instance_details"] = Slow({"applications": applications})
        vars(made)["record_routing_stats"] = Slow({"chute_probes": [], "info": {}})
        return made

    async def flood() -> list[int]:
        paths = [f"/{slug}/ready" for slug in ("slug", "slug", *map(str, range(50)))]
        return [answer.status_code for answer in await asyncio.gather(*map(probes.answer, paths)) if answer]

    monkeypatch.setattr(probes, "_actor", actor)
    assert asyncio.run(flood()) == [200, 200]
    assert len(queried) == 2
    assert asyncio.run(flood()) == [200, 200]  # later probes query again
    assert len(queried) == 4
