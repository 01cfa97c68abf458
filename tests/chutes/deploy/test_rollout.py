from collections.abc import Callable
from dataclasses import replace

import pytest

from chutes.deploy import logs, registry, rollout
from chutes.deploy.registry import DeployedChute
from tests.chutes.deploy.specs import make_spec

RAY_MESSAGE = """Failed 1 times.
\x1b[36mray::X\x1b[39m
  File "/a/b.py"
chutes.deploy.replica.LoadFailed: RuntimeError: no weights (m.py:3)"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (RAY_MESSAGE, "RuntimeError: no weights (m.py:3)"),
        ("The actor died unexpectedly.\n\tactor_id: 1\n", "actor_id: 1"),
        ("", "The replica ended without an error message."),
    ],
)
def test_the_failure_reason_is_the_error_of_the_replica(message: str, line: str) -> None:
    details = {"deployments": {"chute": {"message": message}}}
    assert rollout.failure_reason(DeployedChute("slug", None, details)) == line


@pytest.mark.parametrize("deploy", [rollout.roll_out, rollout.start_without_waiting])
def test_another_chute_with_the_same_slug_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, deploy: Callable[..., None]
) -> None:
    deployed = make_spec(name="Foo.bar")
    monkeypatch.setattr(registry, "load_spec", {deployed.slug: deployed}.get)
    monkeypatch.setattr(registry, "serve_details", lambda: {deployed.slug: {"status": "RUNNING"}})
    monkeypatch.setattr(rollout, "start", lambda _: pytest.fail("the other chute was replaced"))
    with pytest.raises(rollout.InvalidChuteName, match=r"Foo\.bar, is already deployed at /myuser-foo-bar\."):
        deploy(make_spec(name="foo-bar"), lambda *_: None)


@pytest.mark.parametrize("deploy", [rollout.roll_out, rollout.start_without_waiting])
def test_a_chute_without_a_slug_is_rejected(monkeypatch: pytest.MonkeyPatch, deploy: Callable[..., None]) -> None:
    monkeypatch.setattr(registry, "load_spec", lambda _: pytest.fail("the registry was read"))
    with pytest.raises(rollout.InvalidChuteName, match="Choose a name with --name"):
        deploy(replace(make_spec(), slug=""), lambda *_: None)


@pytest.mark.parametrize(
    ("status", "served", "expected"),
    [
        ("RUNNING", True, ["new", "old"]),
        ("RUNNING", False, ["new", "old"]),  # deployed without waiting for it
        ("UNHEALTHY", True, ["new", "old"]),
        ("DEPLOYING", False, ["new", "deleted"]),  # interrupted: it has never served
        (None, True, ["new", "deleted"]),  # deleted, in part
    ],
)
def test_a_failed_version_is_replaced_by_the_last_one_that_served(
    monkeypatch: pytest.MonkeyPatch, status: str | None, served: bool, expected: list[str]
) -> None:
    old, new = replace(make_spec(), served=served), make_spec()
    actions = []
    monkeypatch.setattr(registry, "load_spec", {old.slug: old}.get)
    monkeypatch.setattr(registry, "serve_details", lambda: {old.slug: {"status": status}} if status else {})
    monkeypatch.setattr(registry, "save_spec", lambda _: None)
    monkeypatch.setattr(rollout, "start", lambda spec: actions.append("new" if spec is new else "old"))
    monkeypatch.setattr(rollout, "delete", lambda _: actions.append("deleted"))
    monkeypatch.setattr(rollout, "_wait_until_ready", lambda *_: "it does not load")
    monkeypatch.setattr(rollout, "_wait_until_running", lambda _: None)
    with pytest.raises(rollout.RolloutFailed, match="it does not load"):
        rollout.roll_out(new, lambda *_: None)
    assert actions == expected


def test_progress_is_read_from_the_lifecycle_and_not_from_the_authors_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    replica = {"replica_id": "a", "state": "STARTING", "pid": 1}
    starting = {"status": "DEPLOYING", "deployments": {"chute": {"replicas": [replica]}}}
    details = iter([starting, starting, {"status": "RUNNING"}])
    lines = iter(
        [
            [logs.Line("1", "a", "info", "author", "half", {"progress": "50%"})],
            [
                logs.Line(
                    "2", "a", "info", "chutes.server.lifecycle", "", {"progress": {"stage": "vae", "fraction": 0.5}}
                )
            ],
        ]
    )
    monkeypatch.setattr(registry, "serve_details", lambda: {spec.slug: next(details)})
    monkeypatch.setattr(logs.Reader, "read", lambda _: next(lines))
    monkeypatch.setattr(rollout, "_POLL_INTERVAL", 0)
    reports: list[tuple[str, float | None]] = []
    assert rollout._wait_until_ready(spec, set(), lambda *report: reports.append(report)) is None
    assert reports == [("starting", None), ("loading: vae", 0.5), ("ready", 1.0)]


def test_a_chute_that_is_deleted_meanwhile_ends_its_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    found = iter([{spec.slug: {"status": "DEPLOYING"}}])
    monkeypatch.setattr(registry, "serve_details", lambda: next(found, {}))
    monkeypatch.setattr(logs.Reader, "read", lambda _: [])
    monkeypatch.setattr(rollout, "_POLL_INTERVAL", 0.01)
    monkeypatch.setattr(rollout, "_SETTLE_TIMEOUT", 0.1)
    reports: list[str] = []
    with pytest.raises(rollout.RolloutFailed, match="deleted while it was being deployed"):
        rollout._wait_until_ready(spec, set(), lambda phase, _: reports.append(phase))
    assert set(reports) == {"placing"}
