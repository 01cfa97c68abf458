from pathlib import Path

import pytest

from chutes.deploy.application import build, options
from chutes.server.keys import KeyStore
from tests.chutes.deploy.specs import make_spec


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CHUTES_QUEUE_SIZE": "5", "CHUTES_API_KEYS": "one", "CHUTES_PORT": "1", "OTHER": "x"}.items():
        monkeypatch.setenv(name, value)


def test_settings_become_options_of_ray_serve() -> None:
    translated = options(make_spec())
    assert translated["max_ongoing_requests"] == 2
    assert translated["max_queued_requests"] == 5
    assert translated["graceful_shutdown_timeout_s"] == 140  # with 20 for the shutdown hooks
    assert translated["autoscaling_config"]["target_ongoing_requests"] == 1.5


def test_replicas_get_the_settings_and_env_wins() -> None:
    spec = make_spec(environment={"CHUTES_QUEUE_SIZE": "9", "MODEL": "m"})
    assert spec.environment == {"CHUTES_QUEUE_SIZE": "9", "CHUTES_API_KEYS": "one", "MODEL": "m"}
    assert options(spec)["max_queued_requests"] == 9


def test_replicas_require_a_key_if_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHUTES_KEYS_FILE", str(tmp_path / "keys.json"))
    assert make_spec().settings == {"require_key": True}
    monkeypatch.delenv("CHUTES_API_KEYS")
    assert make_spec().settings == {"require_key": False}
    KeyStore(tmp_path / "keys.json").create("me")
    assert make_spec().settings == {"require_key": True}  # though the replicas may not see that file
    assert make_spec(no_auth=True).settings == {"no_auth": True}


def test_another_name_gives_another_chute() -> None:
    spec = make_spec(name="Second")
    assert (spec.name, spec.slug, spec.username) == ("Second", "myuser-second", "myuser")
    assert spec.uid != make_spec().uid
    assert make_spec().version != make_spec().version


@pytest.mark.filterwarnings("ignore")
def test_ray_serve_accepts_the_application() -> None:
    pytest.importorskip("ray")
    spec = make_spec()
    deployment = build(spec)._bound_deployment
    assert deployment.name == "chute"
    assert deployment.version == spec.version
    assert deployment.max_ongoing_requests == 2
    assert deployment.max_queued_requests == 5
