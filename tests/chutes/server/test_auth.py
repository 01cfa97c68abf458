import base64
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from chutes.server.auth import AuthMiddleware, InsecureSettings, check_exposure
from chutes.server.keys import KeyStore
from chutes.server.settings import Settings

KEY = "right"


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


def settings(tmp_path: Path, **options: Any) -> Settings:
    return Settings(keys_file=tmp_path / "keys.json", **options)


def client(configured: Settings, **options: Any) -> TestClient:
    paths = ["/x", "/health", "/ready", "/metrics", "/v1/x"]
    methods = ["GET", "OPTIONS"]
    routes = [Route(path, hello, methods=methods) for path in paths]
    app = AuthMiddleware(Starlette(routes=[*routes, WebSocketRoute("/ws", socket)]), configured)
    return TestClient(app, **{"base_url": "http://localhost:8000", **options})


def test_without_keys_every_request_is_accepted(tmp_path: Path) -> None:
    assert client(settings(tmp_path)).get("/x").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": f"BEARER   {KEY}"},
        {"X-API-Key": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": "Basic " + base64.b64encode(f"user:{KEY}".encode()).decode()},
        {"Authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()},
        {"Authorization": "Bearer wrong", "X-API-Key": KEY},
    ],
)
def test_a_key_is_accepted_in_each_header(tmp_path: Path, headers: dict[str, str]) -> None:
    assert client(settings(tmp_path, api_keys=(KEY,))).get("/x", headers=headers).text == "hello"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": KEY},
        {"Authorization": "Basic ====="},
        {"Authorization": "Digest " + KEY},
        {"X-API-Key": ""},
        {"Cookie": f"key={KEY}"},
    ],
)
def test_a_missing_or_invalid_key_is_401(tmp_path: Path, headers: dict[str, str]) -> None:
    answer = client(settings(tmp_path, api_keys=(KEY,))).get("/x", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="chutes"'
    assert answer.json()["code"] == "invalid_api_key"


def test_errors_under_v1_have_openais_form(tmp_path: Path) -> None:
    answer = client(settings(tmp_path, api_keys=(KEY,))).get("/v1/x")
    assert answer.json()["error"]["type"] == "authentication_error"


def test_a_browser_gets_a_basic_challenge(tmp_path: Path) -> None:
    answer = client(settings(tmp_path, api_keys=(KEY,))).get("/x", headers={"Accept": "text/html"})
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_probes_are_open_and_metrics_are_open_to_this_machine(tmp_path: Path) -> None:
    configured = settings(tmp_path, api_keys=(KEY,))
    remote, local = client(configured, client=("203.0.113.9", 1)), client(configured, client=("127.0.0.1", 1))
    assert [remote.get(path).status_code for path in ("/health", "/ready", "/metrics")] == [200, 200, 401]
    assert local.get("/metrics").status_code == 200
    opened = client(settings(tmp_path, api_keys=(KEY,), open_metrics=True), client=("203.0.113.9", 1))
    assert opened.get("/metrics").status_code == 200
    assert remote.options("/x").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"X-Real-IP": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_metrics_are_not_open_to_clients_of_a_proxy(tmp_path: Path, headers: dict[str, str]) -> None:
    local = client(settings(tmp_path, api_keys=(KEY,)), client=("127.0.0.1", 1))
    for path in ("/metrics", "/_metrics"):
        assert local.get(path, headers=headers).status_code == 401
        assert local.get(path, headers={**headers, "X-API-Key": KEY}).status_code != 401


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key"])
@pytest.mark.parametrize("values", [(f"Bearer {KEY}", "Bearer wrong"), (KEY, KEY), ("", KEY)])
def test_two_keys_in_one_place_are_ambiguous(tmp_path: Path, name: str, values: tuple[str, str]) -> None:
    http = client(settings(tmp_path, api_keys=(KEY,)))
    answer = http.get("/x", headers=[(name, value) for value in values])
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_websocket_needs_a_key(tmp_path: Path) -> None:
    http = client(settings(tmp_path, api_keys=(KEY,)))
    with pytest.raises(WebSocketDisconnect) as refused, http.websocket_connect("/ws"):
        pass
    assert refused.value.code == 1008
    with http.websocket_connect("/ws", headers={"X-API-Key": KEY}) as accepted:
        assert accepted.receive_text() == "hello"


def test_no_auth_disables_authentication_despite_keys(tmp_path: Path) -> None:
    assert client(settings(tmp_path, api_keys=(KEY,), no_auth=True)).get("/x").status_code == 200


def test_deleting_the_last_key_does_not_disable_authentication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured = settings(tmp_path)
    store = KeyStore(configured.keys_file)
    key = store.create("only")
    monkeypatch.setattr("chutes.server.keys._CHECK_INTERVAL", 0)
    http = client(configured)
    assert http.get("/x", headers={"X-API-Key": key}).status_code == 200
    store.delete("only")
    assert http.get("/x", headers={"X-API-Key": key}).status_code == 401


def test_the_first_key_created_at_runtime_enables_authentication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chutes.server.keys._CHECK_INTERVAL", 0)
    configured = settings(tmp_path)
    http = client(configured)
    assert http.get("/x").status_code == 200
    key = KeyStore(configured.keys_file).create("first")
    assert http.get("/x").status_code == 401
    assert http.get("/x", headers={"X-API-Key": key}).status_code == 200
    KeyStore(configured.keys_file).delete("first")
    assert http.get("/x").status_code == 401


def test_an_unreadable_key_file_that_appears_at_runtime_enables_authentication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chutes.server.keys._CHECK_INTERVAL", 0)
    http = client(settings(tmp_path))
    assert http.get("/x").status_code == 200
    (tmp_path / "keys.json").write_text("{")
    for headers in ({}, {"X-API-Key": KEY}):
        assert http.get("/x", headers=headers).status_code == 401


def test_a_key_can_be_required_while_none_exists(tmp_path: Path) -> None:
    http = client(settings(tmp_path, require_key=True))
    assert http.get("/x").status_code == 401
    assert http.get("/health").status_code == 200
    assert client(settings(tmp_path, require_key=True, no_auth=True)).get("/x").status_code == 200


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"host": "127.0.0.1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "0.0.0.0", "no_auth": True}, False),
        ({"host": "0.0.0.0", "api_keys": (KEY,)}, False),
    ],
)
def test_a_public_address_needs_a_key_or_no_auth(tmp_path: Path, options: dict[str, Any], refused: bool) -> None:
    if refused:
        with pytest.raises(InsecureSettings, match="chutes keys create"):
            check_exposure(settings(tmp_path, **options))
    else:
        check_exposure(settings(tmp_path, **options))


def test_a_key_that_is_not_ascii_is_rejected() -> None:
    with pytest.raises(InsecureSettings, match="not ASCII"):
        check_exposure(Settings(api_keys="fine,s\u00e9cret"))  # type: ignore[arg-type]


def test_a_key_in_the_file_allows_a_public_address(tmp_path: Path) -> None:
    configured = settings(tmp_path, host="0.0.0.0")
    KeyStore(configured.keys_file).create("one")
    check_exposure(configured)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_keys_that_cannot_be_read_are_an_error(tmp_path: Path, host: str) -> None:
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(InsecureSettings, match="is not a key file"):
        check_exposure(settings(tmp_path, host=host))
