import asyncio
import json
from pathlib import Path
from typing import Any, Never

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from benchmarks.harness.waiting import wait_for
from chutes.chute import Chute
from chutes.deploy import application, cluster, probes, proxy
from chutes.deploy.package import Package
from chutes.deploy.replica import BY_HOST_HEADER, REPLICA_HEADER
from chutes.server.keys import KeyStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(path: str) -> None:
        return None

    monkeypatch.setattr(probes, "answer", nothing)


class Serve:
    """A double of Ray Serve's proxy, which records the scopes of its requests."""

    def __init__(
        self, status: int | None = 200, headers: Any = (), *, from_replica: bool = True, deployed: tuple[str, ...] = ()
    ) -> None:
        self.status = status
        self.deployed = deployed
        self.headers = [*headers, *([(REPLICA_HEADER, b"r1")] if from_replica else [])]
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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


def ask(serve: Serve, path: str = "/slug/draw", **headers: str) -> httpx.Response:
    client = TestClient(proxy.ProxyMiddleware(serve), base_url="http://localhost:8000", client=("127.0.0.1", 1))
    return client.post(path, headers=headers)


def test_a_response_of_a_replica_passes_unchanged() -> None:
    for status in (200, 404, 500, 503):
        answer = ask(Serve(status))
        assert (answer.status_code, answer.text) == (status, "Ray's words: /a/path.")


@pytest.mark.parametrize(
    ("ray_status", "status", "code"),
    [
        (404, 404, "not_found"),
        (408, 504, "timeout"),
        (429, 429, "queue_full"),
        (503, 503, "unavailable"),
        (500, 502, "replica_lost"),
        (None, 502, "replica_lost"),
    ],
)
def test_errors_of_ray_become_errors_of_this_package(ray_status: int | None, status: int, code: str) -> None:
    answer = ask(Serve(ray_status, [(b"retry-after", b"9"), (b"content-length", b"21")], from_replica=False))
    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert "Ray" not in answer.text
    assert "path" not in answer.text
    assert answer.headers.get("retry-after") == (None if ray_status is None else "9")
    assert len(answer.headers["x-request-id"]) == 32


def test_an_unknown_slug_is_named_in_part() -> None:
    answer = ask(Serve(404, from_replica=False), "/my-slug/draw")
    assert answer.json()["detail"] == "No chute is deployed at /my-slug."
    assert len(ask(Serve(404, from_replica=False), "/" + "x" * 5000).content) < 300


def test_503_has_a_retry_after_header() -> None:
    assert ask(Serve(503, from_replica=False)).headers["retry-after"] == "5"


def test_errors_below_v1_have_the_format_of_openai() -> None:
    answer = ask(Serve(429, [(b"retry-after", b"5")], from_replica=False), "/slug/v1/images/generations")
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
def test_a_host_name_selects_a_deployed_chute(monkeypatch: pytest.MonkeyPatch, host: str, path: str) -> None:
    monkeypatch.setenv("CHUTES_ALLOWED_HOSTS", "*")
    serve = Serve(deployed=("/my-slug", "/another"))
    ask(serve, "/draw", host=host)
    [scope] = serve.scopes
    assert scope["path"] == path
    assert ((BY_HOST_HEADER, b"1") in scope["headers"]) == (path != "/draw")


@pytest.mark.parametrize(("method", "forwarded"), [("GET", False), ("HEAD", False), ("POST", True)])
def test_the_proxy_answers_probes(monkeypatch: pytest.MonkeyPatch, method: str, forwarded: bool) -> None:
    async def answer(path: str) -> Response:
        return Response("probe")

    monkeypatch.setattr(probes, "answer", answer)
    serve = Serve()
    client(serve).request(method, "/slug/ready")
    assert bool(serve.scopes) == forwarded


def test_a_client_cannot_claim_that_its_host_name_selected_the_chute() -> None:
    serve = Serve(deployed=("/slug",))
    ask(serve, "/slug/draw", **{BY_HOST_HEADER.decode(): "1"})
    ask(serve, "/draw", host="slug.localhost", **{BY_HOST_HEADER.decode(): "0"})
    marks = [[value for name, value in scope["headers"] if name == BY_HOST_HEADER] for scope in serve.scopes]
    assert marks == [[], [b"1"]]


def test_a_response_has_one_request_id() -> None:
    serve = Serve(200, [(b"x-request-id", b"abc"), (b"X-Request-ID", b"abc")])
    answer = ask(serve, **{"x-request-id": "abc"})
    assert answer.headers.get_list("x-request-id") == ["abc"]
    ask(serve, **{"x-request-id": "a b\tc"})
    ids = [dict(scope["headers"])[b"x-request-id"] for scope in serve.scopes]
    assert ids[0] == b"abc"
    assert len(ids[1]) == 32


def test_routes_of_ray_itself_are_kept() -> None:
    assert ask(Serve(200, from_replica=False), "/-/routes").text == "Ray's words: /a/path."


def test_statistics_are_for_machines_of_the_cluster_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeManagerAddress": "10.0.0.2"}])

    def ask_from(address: str, path: str) -> int:
        middleware = proxy.ProxyMiddleware(Serve(404 if path != "/-/healthz" else 200, from_replica=False))
        return TestClient(middleware, base_url="http://localhost", client=(address, 1)).get(path).status_code

    assert ask_from("10.0.0.2", cluster.STATS_PATH) == 200
    assert ask_from("10.0.0.3", cluster.STATS_PATH) == 404
    assert ask_from("10.0.0.3", "/-/healthz") == 200

    outside = Serve(404, from_replica=False)
    TestClient(proxy.ProxyMiddleware(outside), base_url="http://localhost", client=("10.0.0.3", 1)).get("/-/routes")
    assert [scope["path"] for scope in outside.scopes] == ["/-/"]  # where Ray has no route


def test_a_flood_of_requests_for_routes_of_ray_reads_the_nodes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    reads: list[None] = []

    def nodes() -> list[dict[str, str]]:
        reads.append(None)
        return [{"NodeManagerAddress": "10.0.0.2"}]

    monkeypatch.setattr(ray, "nodes", nodes)
    monkeypatch.setattr(proxy, "_CACHE_SECONDS", 60)
    middleware = proxy.ProxyMiddleware(Serve(404, from_replica=False))
    for address, status in [("10.0.0.3", 404), ("10.0.0.2", 200)] * 5:
        flood = TestClient(middleware, base_url="http://localhost", client=(address, 1))
        assert flood.get(cluster.STATS_PATH).status_code == status
    assert len(reads) == 1


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch, declared: bool) -> None:
    monkeypatch.setenv("CHUTES_MAX_BODY_BYTES", "100")
    collected = []

    async def ray(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            collected.append(len(message["body"]))
            if not message.get("more_body"):
                await send({"type": "http.response.start", "status": 200, "headers": [(REPLICA_HEADER, b"r1")]})
                await send({"type": "http.response.body", "body": b"drawn"})
                return

    client = TestClient(proxy.ProxyMiddleware(ray), base_url="http://localhost:8000", client=("127.0.0.1", 1))
    assert client.post("/slug/draw", content=b"x" * 100).text == "drawn"
    collected.clear()
    answer = client.post("/slug/draw", content=b"x" * 150 if declared else iter([b"x" * 50] * 9))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.headers["x-request-id"]
    assert sum(collected) <= 100


async def test_a_disconnected_client_is_counted() -> None:
    async def ray(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass  # Ray sends no response to a disconnected client

    messages = [{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> Never:
        raise AssertionError(message)

    middleware = proxy.ProxyMiddleware(ray)
    scope = {"type": "http", "method": "POST", "path": "/slug/draw", "headers": [], "client": ("10.0.0.9", 1)}
    await middleware(scope, receive, send)
    counts = middleware._traffic.by_slug()["slug"]
    assert (counts["requests"], counts["disconnected"], counts["errors"], counts["in_flight"]) == (1, 1, 0, 0)


async def test_a_request_is_forwarded_after_its_body_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_UPLOAD_TIMEOUT", "0.1")
    serve, sent = Serve(), []
    middleware = proxy.ProxyMiddleware(serve)
    scope = {"type": "http", "method": "POST", "path": "/slug/draw", "headers": [(b"x-request-id", b"mine")]}

    async def send(message: Message) -> None:
        sent.append(message)

    async def slowly() -> Message:
        if not sent:
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b"{", "more_body": True}
        return {"type": "http.disconnect"}

    async def leaving() -> Message:
        return {"type": "http.disconnect"}

    await middleware({**scope, "client": ("10.0.0.9", 1)}, slowly, send)
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"x-request-id"]) == (408, b"mine")
    sent.clear()
    await middleware({**scope, "client": ("10.0.0.9", 1)}, leaving, send)
    assert (serve.scopes, sent, middleware._traffic.by_slug()) == ([], [], {})


def test_requests_are_counted() -> None:
    middleware = proxy.ProxyMiddleware(Serve())
    client = TestClient(middleware, base_url="http://localhost", client=("127.0.0.1", 1))
    for path in ("/a/draw", "/a/draw", "/b/draw", "/a/ready"):
        client.post(path)
    middleware._app = Serve(429, from_replica=False)
    client.post("/a/draw")
    middleware._app = Serve(404, from_replica=False)
    client.post("/scan/me")  # requests for unknown chutes are not counted
    counts = client.get(cluster.STATS_PATH).json()
    assert set(counts) == {"a", "b"}
    assert (counts["a"]["requests"], counts["a"]["rejected"], counts["a"]["in_flight"]) == (3, 1, 0)


def test_ray_serve_gets_one_middleware() -> None:
    [layer] = proxy.middleware()
    assert Starlette(middleware=[layer])


PAGE = "https://app.example"
EVIL = {"Origin": "http://evil.example"}


def deploy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, no_auth: bool = False, author_cors: bool = False, **env: str
) -> None:
    """Have the proxy find a chute at /slug that was deployed with these settings."""
    monkeypatch.setenv("CHUTES_KEYS_FILE", str(tmp_path / "keys.json"))
    chute = Chute(username="test", name="slug", image="none")
    if author_cors:
        chute.add_middleware(CORSMiddleware, allow_origins=(PAGE,), allow_methods={"POST"})

    @chute.cord(public_api_path="/look", method="GET")
    async def look(self: Any) -> None: ...

    environment = {f"CHUTES_{name.upper()}": value for name, value in env.items()}
    spec = application.spec_for(
        chute, Package("m:chute", (), b""), environment=environment, ray_options={}, no_auth=no_auth
    )
    kept = application.from_json(application.to_json(spec))
    monkeypatch.setattr("chutes.deploy.registry.load_spec", lambda slug: kept if slug == "slug" else None)


def client(serve: Serve | None = None, server: str = "localhost") -> TestClient:
    middleware = proxy.ProxyMiddleware(serve or Serve(deployed=("/slug",)))
    return TestClient(middleware, base_url=f"http://{server}:8000", client=("127.0.0.1", 1))


def test_foreign_pages_are_rejected_before_ray_sees_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deploy(monkeypatch, tmp_path)
    serve = Serve(deployed=("/slug",))
    browser = client(serve)
    for headers in (EVIL, {"Host": "evil.example"}, {"Host": "slug.evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        refused = browser.post("/slug/draw", headers=headers)
        assert refused.status_code == 403
        assert len(refused.headers["x-request-id"]) == 32
    assert browser.post("/slug/v1/draw", headers=EVIL).json()["error"]["code"] == "origin_not_allowed"
    with pytest.raises(WebSocketDisconnect), browser.websocket_connect("ws://localhost/slug/live", headers=EVIL):
        pass
    assert browser.post("/slug/draw", headers=[("Host", "localhost"), ("Host", "localhost")]).status_code == 400
    assert browser.get("/-/routes", headers=EVIL).status_code == 403
    assert serve.scopes == []
    for headers in ({}, {"Host": "slug.localhost:1"}, {"Origin": "http://slug.localhost:8000"}):
        assert browser.post("/slug/draw", headers=headers).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert browser.get("/slug/docs", headers=link).status_code == 200
    assert browser.get("/slug/look", headers=link).status_code == 403
    assert browser.get("/slug/look", headers=[("Host", "slug.localhost"), *link.items()]).status_code == 403


def test_a_chute_with_keys_checks_them_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deploy(monkeypatch, tmp_path, api_keys="right")
    assert client().post("/slug/draw", headers={**EVIL, "Host": "gpu.example"}).status_code == 200
    by_unknown_host = client().get(cluster.STATS_PATH, headers={"Host": "gpu.example"})
    assert by_unknown_host.status_code == 403


def test_the_first_key_ends_the_check_of_origins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deploy(monkeypatch, tmp_path)
    browser = client()
    assert browser.post("/slug/draw", headers=EVIL).status_code == 403
    KeyStore(tmp_path / "keys.json").create("first")
    wait_for(lambda: browser.post("/slug/draw", headers=EVIL).status_code == 200)


@pytest.mark.parametrize("no_auth", [True, False])
def test_a_public_cluster_does_not_check_origins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_auth: bool
) -> None:
    deploy(monkeypatch, tmp_path, no_auth=no_auth)
    assert client(server="10.0.0.1").post("/slug/draw", headers={**EVIL, "Host": "gpu.example"}).status_code == 200
    monkeypatch.setattr(cluster, "head_labels", lambda: {cluster.HTTP_HOST_LABEL: "0.0.0.0"})
    assert client().post("/slug/draw", headers=EVIL).status_code == 200
    monkeypatch.setattr(cluster, "head_labels", lambda: {cluster.HTTP_HOST_LABEL: "127.0.0.1"})
    assert client().post("/slug/draw", headers=EVIL).status_code == 403


def test_the_settings_of_the_deployed_chute_apply(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deploy(monkeypatch, tmp_path, allowed_hosts="*.gpu.example", cors_origins=PAGE)
    for headers in ({"Host": "slug.gpu.example"}, {"Origin": PAGE}, {"Host": "x.gpu.example", "Origin": PAGE}):
        assert client().post("/slug/draw", headers=headers).status_code == 200
    assert client().post("/nothing/draw", headers={"Origin": PAGE}).status_code == 403


@pytest.mark.parametrize("author_cors", [True, False])
def test_errors_have_cors_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, author_cors: bool) -> None:
    deploy(monkeypatch, tmp_path, author_cors=author_cors, **({} if author_cors else {"cors_origins": PAGE}))
    monkeypatch.setenv("CHUTES_MAX_BODY_BYTES", "100")
    serve = Serve(429, [(b"retry-after", b"5")], from_replica=False, deployed=("/slug",))
    browser = client(serve)
    too_many, too_large = (
        browser.post("/slug/draw", content=b"x" * size, headers={"Origin": PAGE}) for size in (1, 101)
    )
    for answer, status in ((too_many, 429), (too_large, 413)):
        assert answer.status_code == status
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
        assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    assert "retry-after" in too_many.headers["access-control-expose-headers"].lower()
    serve.scopes.clear()
    preflight_headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = browser.options("/slug/draw", headers={"Origin": PAGE, **preflight_headers})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, PAGE)
    assert serve.scopes == []  # it does not wait in the queue
    assert (
        "access-control-allow-origin" not in browser.post("/slug/draw", headers={"Origin": "http://localhost"}).headers
    )


def test_cors_headers_are_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deploy(monkeypatch, tmp_path, cors_origins=PAGE)
    replica_headers = {
        "Access-Control-Allow-Origin": PAGE,
        "Access-Control-Expose-Headers": "X-Seed",
        "Vary": "Origin",
        "X-Seed": "1",
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in replica_headers.items()]
    answer = client(Serve(200, raw, deployed=("/slug",))).post("/slug/draw", headers={"Origin": PAGE})
    assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
    assert answer.headers.get_list("vary") == ["Origin"]
    assert answer.headers["access-control-expose-headers"].split(", ") == ["X-Seed", "X-Chutes-Replica"]


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via", "Origin", "Host"])
def test_statistics_are_not_for_proxies_and_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, header: str) -> None:
    monkeypatch.setenv("CHUTES_KEYS_FILE", str(tmp_path / "keys.json"))
    KeyStore(tmp_path / "keys.json").create("first")
    serve = Serve(404, from_replica=False, deployed=("/slug",))
    for path in (cluster.STATS_PATH, "/-/routes"):
        serve.scopes.clear()
        assert client(serve).get(path, headers={header: "127.0.0.1.evil.example"}).status_code == 404
        assert [scope["path"] for scope in serve.scopes] == ["/-/"]
