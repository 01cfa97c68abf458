import asyncio
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from chutes.deploy import probes, proxy
from chutes.deploy.replica import BY_HOST, HEADER

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_probes(monkeypatch: pytest.MonkeyPatch):
    async def nothing(path: str) -> None:
        return None

    monkeypatch.setattr(probes, "answer", nothing)


class Serve:
    """Stands in for Ray Serve's proxy: answers as told, remembers what it was asked."""

    def __init__(
        self, status: int | None = 200, headers: Any = (), *, ours: bool = True, deployed: tuple[str, ...] = ()
    ) -> None:
        self.status = status
        self.deployed = deployed
        self.headers = [*headers, *([(HEADER, b"r1")] if ours else [])]
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope, receive, send):
        if self.deployed and scope["path"] == "/-/routes":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps(dict.fromkeys(self.deployed, "x")).encode()})
            return
        self.scopes.append(scope)
        if self.status is None:
            return
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"Ray's words: /a/path", "more_body": True})
        await send({"type": "http.response.body", "body": b"."})


def ask(serve: Serve, path: str = "/slug/draw", **headers: str):
    client = TestClient(proxy.Door(serve), base_url="http://localhost:8000", client=("127.0.0.1", 1))
    return client.post(path, headers=headers)


def test_a_replicas_answer_passes_untouched():
    for status in (200, 404, 500, 503):
        answer = ask(Serve(status))
        assert (answer.status_code, answer.text) == (status, "Ray's words: /a/path.")


@pytest.mark.parametrize(
    ("theirs", "ours", "code"),
    [
        (404, 404, "not_found"),
        (408, 504, "timeout"),
        (429, 429, "queue_full"),
        (503, 503, "unavailable"),
        (500, 502, "replica_lost"),
        (None, 502, "replica_lost"),
    ],
)
def test_rays_own_errors_come_in_our_shape(theirs, ours, code):
    answer = ask(Serve(theirs, [(b"retry-after", b"9"), (b"content-length", b"21")], ours=False))
    assert answer.status_code == ours
    assert answer.json()["code"] == code
    assert "Ray" not in answer.text
    assert "path" not in answer.text
    assert answer.headers.get("retry-after") == (None if theirs is None else "9")
    assert len(answer.headers["x-request-id"]) == 32


def test_503_says_when_to_try_again():
    assert ask(Serve(503, ours=False)).headers["retry-after"] == "5"


def test_openais_shape_below_v1():
    answer = ask(Serve(429, [(b"retry-after", b"5")], ours=False), "/slug/v1/images/generations")
    assert set(answer.json()["error"]) == {"message", "type", "code", "param"}


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("my-slug.localhost:8000", "/my-slug/draw"),
        ("MY-slug.example.com", "/my-slug/draw"),
        ("localhost:8000", "/draw"),
        ("127.0.0.1:8000", "/draw"),
        ("www.example.com", "/draw"),
        ("gpu1.example.com", "/draw"),
        ("ip-10-0-0-1.ec2.internal:8000", "/draw"),
        ("[::1]:8000", "/draw"),
    ],
)
def test_the_host_names_the_chute_if_it_is_deployed(monkeypatch, host, path):
    monkeypatch.setenv("CHUTES_ALLOWED_HOSTS", "*")
    serve = Serve(deployed=("/my-slug", "/another"))
    ask(serve, "/draw", host=host)
    [scope] = serve.scopes
    assert scope["path"] == path
    assert ((BY_HOST, b"1") in scope["headers"]) == (path != "/draw")


def test_one_request_id_the_clients_if_it_is_a_plain_one():
    serve = Serve(200, [(b"x-request-id", b"abc"), (b"X-Request-ID", b"abc")])
    answer = ask(serve, **{"x-request-id": "abc"})
    assert answer.headers.get_list("x-request-id") == ["abc"]
    ask(serve, **{"x-request-id": "a b\tc"})
    ids = [dict(scope["headers"])[b"x-request-id"] for scope in serve.scopes]
    assert ids[0] == b"abc"
    assert len(ids[1]) == 32


def test_rays_own_routes_stay():
    assert ask(Serve(200, ours=False), "/-/routes").text == "Ray's words: /a/path."


def test_what_goes_on_concerns_only_the_cluster(monkeypatch: pytest.MonkeyPatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeManagerAddress": "10.0.0.2"}])

    def ask_from(address: str, path: str) -> int:
        door = proxy.Door(Serve(404 if path != "/-/healthz" else 200, ours=False))
        return TestClient(door, base_url="http://localhost", client=(address, 1)).get(path).status_code

    assert ask_from("10.0.0.2", proxy.STATISTICS) == 200
    assert ask_from("10.0.0.3", proxy.STATISTICS) == 404
    assert ask_from("10.0.0.3", "/-/healthz") == 200

    outside = Serve(404, ours=False)
    TestClient(proxy.Door(outside), base_url="http://localhost", client=("10.0.0.3", 1)).get("/-/routes")
    assert [scope["path"] for scope in outside.scopes] == ["/-/"]  # where Ray has nothing to tell


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_not_collected(monkeypatch: pytest.MonkeyPatch, declared):
    monkeypatch.setenv("CHUTES_MAX_BODY_BYTES", "100")
    collected = []

    async def ray(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            collected.append(len(message["body"]))
            if not message.get("more_body"):
                await send({"type": "http.response.start", "status": 200, "headers": [(HEADER, b"r1")]})
                await send({"type": "http.response.body", "body": b"drawn"})
                return

    client = TestClient(proxy.Door(ray), base_url="http://localhost:8000", client=("127.0.0.1", 1))
    assert client.post("/slug/draw", content=b"x" * 100).text == "drawn"
    collected.clear()
    answer = client.post("/slug/draw", content=b"x" * 150 if declared else iter([b"x" * 50] * 9))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.headers["x-request-id"]
    assert sum(collected) <= 100


async def test_a_client_that_leaves_is_counted_as_such():
    async def ray(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass  # Ray says nothing to nobody

    messages = [{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    async def send(message):
        raise AssertionError(message)

    door = proxy.Door(ray)
    scope = {"type": "http", "method": "POST", "path": "/slug/draw", "headers": [], "client": ("10.0.0.9", 1)}
    await door(scope, receive, send)
    told = door._statistics()["slug"]
    assert (told["requests"], told["left"], told["errors"], told["in_flight"]) == (1, 1, 0, 0)


async def test_ray_is_asked_when_all_of_the_body_has_come(monkeypatch):
    monkeypatch.setenv("CHUTES_UPLOAD_TIMEOUT", "0.1")
    serve, sent = Serve(), []
    door = proxy.Door(serve)
    scope = {"type": "http", "method": "POST", "path": "/slug/draw", "headers": [(b"x-request-id", b"mine")]}

    async def send(message):
        sent.append(message)

    async def slowly():
        if not sent:
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b"{", "more_body": True}
        return {"type": "http.disconnect"}

    async def leaving():
        return {"type": "http.disconnect"}

    await door({**scope, "client": ("10.0.0.9", 1)}, slowly, send)
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"x-request-id"]) == (408, b"mine")
    sent.clear()
    await door({**scope, "client": ("10.0.0.9", 1)}, leaving, send)
    assert (serve.scopes, sent, door._statistics()) == ([], [], {})


def test_counts_what_went_through():
    door = proxy.Door(Serve())
    client = TestClient(door, base_url="http://localhost", client=("127.0.0.1", 1))
    for path in ("/a/draw", "/a/draw", "/b/draw", "/a/ready"):
        client.post(path)
    door._app = Serve(429, ours=False)
    client.post("/a/draw")
    door._app = Serve(404, ours=False)
    client.post("/scan/me")  # nothing is kept of what is not there
    told = client.get(proxy.STATISTICS).json()
    assert set(told) == {"a", "b"}
    assert (told["a"]["requests"], told["a"]["rejected"], told["a"]["in_flight"]) == (3, 1, 0)


def test_a_summary_in_figures():
    recent = [(0.0, 0.1 * number, 200) for number in range(1, 11)] + [(0.0, 9.0, 500), (0.0, 0.0, 429), (0.0, 1.0, 499)]
    told = proxy.summary(recent, 60)
    assert (told["requests"], told["per_minute"], told["errors"], told["rejected"], told["left"]) == (13, 13, 1, 1, 1)
    assert told["latency_seconds"] == {"p50": 0.55, "p95": 0.955, "p99": 0.991}
    assert proxy.summary([], 60)["latency_seconds"] == {}
    json.dumps(told)


def test_ray_serve_is_given_one_layer():
    [layer] = proxy.middleware()
    assert Starlette(middleware=[layer])
