import time
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from chutes.server.origin import OriginMiddleware, OriginPolicy
from chutes.server.settings import Settings

EVIL = "http://evil.example"


def scope(*headers: tuple[str, str], method: str = "POST", version: str = "1.1", **options: Any) -> Scope:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "http_version": version, "method": method, "path": "/x", "headers": raw, **options}


def code(policy: OriginPolicy, *headers: tuple[str, str], **options: Any) -> str:
    violation = policy.find_violation(scope(*headers, **options))
    return violation.error.code if violation else ""


def policy(**settings: Any) -> OriginPolicy:
    return OriginPolicy(Settings(**settings))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "my-slug.localhost:8000",
        "a.b.localhost.:1",
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.255.3.4:1",
        "[::1]",
        "[::1]:8000",
        "[0:0:0:0:0:0:0:1]:8000",
    ],
)
def test_hosts_of_this_machine_are_accepted(host: str) -> None:
    assert code(policy(), ("host", host)) == ""
    assert code(policy(), ("host", "localhost:8000"), ("origin", f"http://{host.lower()}")) == ""
    assert code(policy(), ("host", "localhost:8000"), ("origin", f"https://{host.lower()}")) == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evillocalhost",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#.localhost",
        "evil.example/.localhost",
        "evil.example, localhost",
        "localhost:8000:8000",
        "localhost:evil",
        "128.0.0.1",
        "0.0.0.0:8000",
        "10.0.0.1",
        "[::2]",
        "[::1",
        "::1",
        ".localhost",
        "",
        " ",
        "loc\u00e4lhost",
        "localhost\n",
    ],
)
def test_other_hosts_are_rejected(host: str) -> None:
    assert code(policy(), ("host", host)) == "host_not_allowed"
    assert code(policy(), ("host", "localhost"), ("origin", f"http://{host}")) == "origin_not_allowed"


def test_a_missing_or_repeated_host_is_rejected() -> None:
    for twice in (("localhost", "localhost"), ("localhost", EVIL), (EVIL, "localhost")):
        violation = policy().find_violation(scope(*(("host", host) for host in twice)))
        assert violation is not None
        assert (violation.error.status, violation.error.code, violation.always) == (400, "bad_request", True)
    missing = policy().find_violation(scope())
    assert missing is not None
    assert (missing.error.status, missing.always) == (400, True)
    assert code(policy(), version="1.0") == ""  # HTTP/1.0 has no Host, and no browser uses it
    assert code(policy(), ("origin", EVIL), version="1.0") == "origin_not_allowed"


def test_allowed_hosts_are_accepted() -> None:
    checked = policy(allowed_hosts="Gpu.Example:8000, *.lan., 10.0.0.1,[fd00::1]:80")
    allowed = ("gpu.example", "GPU.example.:9", "a.b.lan", "10.0.0.1:8000", "[fd00::1]:8000", "localhost")
    for host in allowed:
        assert code(checked, ("host", host)) == "", host
        assert code(checked, ("host", host), ("origin", f"https://{host.lower()}")) == "", host
        assert code(checked, ("host", host), ("origin", EVIL)) == "origin_not_allowed", host
    for host in ("a.gpu.example", "lan", "10.0.0.2", "[fd00::2]"):
        assert code(checked, ("host", host)) == "host_not_allowed", host


def test_allowing_every_host_does_not_allow_every_origin() -> None:
    checked = policy(allowed_hosts="*")
    assert code(checked, ("host", "gpu.example:8000")) == ""
    assert code(checked, ("host", "gpu.example:8000"), ("origin", "https://gpu.example")) == ""
    assert code(checked, ("host", "gpu.example:8000"), ("origin", EVIL)) == "origin_not_allowed"


@pytest.mark.parametrize(
    "origin",
    [EVIL, "null", "", "http://", "file://", "chrome-extension://abc", "http://localhost/path", "ftp://localhost"],
)
def test_other_origins_are_rejected(origin: str) -> None:
    assert code(policy(), ("host", "localhost"), ("origin", origin)) == "origin_not_allowed"
    assert code(policy(cors_origins="*"), ("host", "localhost"), ("origin", origin)) == ""


def test_listed_origins_are_compared_in_full() -> None:
    checked = policy(cors_origins="https://a.example,http://b.example:8080,tauri://localhost")
    for origin in ("https://a.example", "http://b.example:8080", "tauri://localhost"):
        assert code(checked, ("host", "localhost"), ("origin", origin)) == ""
    for origin in ("http://a.example", "https://a.example:444", "https://a.example.evil.example", "http://b.example"):
        assert code(checked, ("host", "localhost"), ("origin", origin)) == "origin_not_allowed"
    twice = (("origin", "https://a.example"), ("origin", EVIL))
    assert code(checked, ("host", "localhost"), *twice) == "origin_not_allowed"
    assert (
        code(OriginPolicy(Settings(), ["https://c.example"]), ("host", "localhost"), ("origin", "https://c.example"))
        == ""
    )


def test_a_cross_site_request_without_an_origin_is_rejected() -> None:
    host = ("host", "localhost:8000")
    for site in ("same-origin", "same-site", "none"):
        assert code(policy(), host, ("sec-fetch-site", site)) == ""
    cross = ("sec-fetch-site", "cross-site")
    for mode in ("no-cors", "cors", "websocket"):
        violation = policy().find_violation(scope(host, cross, ("sec-fetch-mode", mode), method="GET"))
        assert violation is not None
        assert (violation.error.code, violation.page_load) == ("origin_not_allowed", False)
    for method, is_load in (("GET", True), ("POST", False), ("HEAD", False)):
        violation = policy().find_violation(scope(host, cross, ("sec-fetch-mode", "navigate"), method=method))
        assert violation is not None
        assert violation.page_load is is_load


def test_errors_name_the_setting_and_shorten_the_header() -> None:
    host = policy().find_violation(scope(("host", "evil\x1b[31m.example" + "x" * 9999)))
    origin = policy().find_violation(scope(("host", "localhost"), ("origin", EVIL + "x" * 9999)))
    assert host is not None
    assert origin is not None
    for violation, setting in ((host, "CHUTES_ALLOWED_HOSTS"), (origin, "CHUTES_CORS_ORIGINS")):
        text = str(violation.error)
        assert violation.error.status == 403
        assert setting in text
        assert "evil" in text
        assert len(text) < 400
        assert "\x1b" not in text


@pytest.mark.parametrize(
    "header",
    ["forwarded", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-x"],
)
def test_a_forwarded_request_is_not_direct(header: str) -> None:
    host = ("host", "localhost")
    assert policy().is_direct(scope(host))
    assert not policy().is_direct(scope(host, (header, "")))


def test_a_request_of_a_foreign_page_is_not_direct() -> None:
    checked = policy()
    assert not checked.is_direct(scope(("host", "evil.example")))
    assert not checked.is_direct(scope(("host", "localhost"), ("origin", EVIL)))
    assert not checked.is_direct(scope(("host", "localhost"), ("host", "localhost")))
    for host in ("10.0.0.1:8000", "[fd00::1]:8000"):  # DNS rebinding needs a name
        assert checked.is_direct(scope(("host", host)))
        assert not checked.is_direct(scope(("host", host), ("origin", EVIL)))
        assert code(checked, ("host", host)) == "host_not_allowed"


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


def client(*, is_open: bool = True) -> TestClient:
    app = Starlette(routes=[Route("/x", hello, methods=["GET", "POST"]), WebSocketRoute("/ws", socket)])
    return TestClient(OriginMiddleware(app, policy(), ("/cord",), lambda: is_open), base_url="http://localhost:8000")


def test_requests_and_websockets_of_foreign_pages_are_rejected() -> None:
    http = client()
    assert http.get("/x").text == "hello"
    refused = http.post("/x", headers={"Origin": EVIL})
    assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")
    under_v1 = http.get("/v1/x", headers={"Host": "evil.example"})
    assert (under_v1.status_code, under_v1.json()["error"]["code"]) == (403, "host_not_allowed")
    with http.websocket_connect("ws://localhost/ws"):
        pass
    with (
        pytest.raises(WebSocketDisconnect) as denied,
        http.websocket_connect("ws://localhost/ws", headers={"Origin": EVIL}),
    ):
        pass
    assert "CHUTES_CORS_ORIGINS" in denied.value.reason


@pytest.mark.parametrize(
    ("is_open", "path", "status"), [(True, "/x", 200), (True, "/cord", 403), (False, "/cord", 404)]
)
def test_a_link_may_open_a_page_but_not_a_cord(is_open: bool, path: str, status: int) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client(is_open=is_open).get(path, headers=link).status_code == status


def test_if_a_key_is_required_only_an_ambiguous_host_is_rejected() -> None:
    http = client(is_open=False)
    assert http.post("/x", headers={"Origin": EVIL, "Host": "evil.example"}).text == "hello"
    assert http.get("/x", headers=[("Host", "localhost"), ("Host", "localhost")]).status_code == 400


def test_hostile_headers_are_matched_in_linear_time() -> None:
    started_at = time.monotonic()
    for host in ("a." * 30_000 + "\n", "[" + ":" * 60_000, "-" * 60_000 + "!", "x.localhost." * 5000 + "/"):
        assert code(policy(), ("host", host)) == "host_not_allowed"
        assert code(policy(), ("host", "localhost"), ("origin", f"http://{host}")) == "origin_not_allowed"
    assert time.monotonic() - started_at < 5
