"""On a loopback address without API keys, the server rejects web pages of other sites."""

import base64
import json
import secrets
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.harness.server import Server, serving, wait_for

DRAWS = """
from fastapi import WebSocket

drawn = []

@chute.cord(public_api_path="/draw")
async def draw(self, prompt: str = "x") -> dict:
    drawn.append(prompt)
    return {"drawn": len(drawn)}

@chute.cord(public_api_path="/look", method="GET")
async def look(self) -> dict:
    return {"drawn": len(drawn)}

@chute.job()
async def train(self) -> str:
    drawn.append("job")
    return "secret"

@chute.websocket("/live")
async def live(websocket: WebSocket):
    await websocket.accept()
    drawn.append("live")
    await websocket.close()
"""

EVIL = "http://evil.example"
PAGE = "https://app.example"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("guarded"), DRAWS, cors_origins=PAGE, allowed_hosts="gpu.example") as running:
        yield running


def drawn(server: Server) -> int:
    return int(server.get("/look").json()["drawn"])


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": EVIL}, "origin_not_allowed"),
        ({"Origin": "null"}, "origin_not_allowed"),
        ({"Origin": "http://localhost.evil.example"}, "origin_not_allowed"),
        ({"Host": "evil.example:8000"}, "host_not_allowed"),
        ({"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}, "host_not_allowed"),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, "origin_not_allowed"),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, "origin_not_allowed"),
    ],
)
def test_a_foreign_page_is_rejected_on_every_route(server: Server, headers: dict[str, str], code: str) -> None:
    before = drawn(server)
    refused = [
        server.post("/draw", json=None, headers=headers),
        server.post("/draw", json=None, content=b'{"prompt": "y"}', headers={**headers, "Content-Type": "text/plain"}),
        server.post("/jobs/train", json=None, headers=headers),
        server.get("/look", headers=headers),
        server.post("/look", headers=headers),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (403, code)
        assert "CHUTES_" in answer.json()["detail"]
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-request-id"]
    if "navigate" not in headers.values():
        for path in ("/jobs", "/metrics", "/ready", "/docs", "/nothing"):
            assert server.get(path, headers=headers).status_code == 403, path
    assert drawn(server) == before


def test_a_link_opens_a_page_but_no_cord(server: Server) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert server.get("/docs", headers=link).status_code == 200
    assert server.get("/look", headers=link).status_code == 403
    assert server.get("/look", headers={**link, "Sec-Fetch-Site": "none"}).status_code == 200  # e.g. typed


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost"},
        {"Host": "my-slug.localhost:1"},
        {"Host": "[::1]:8000"},
        {"Host": "GPU.example.:443"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://gpu.example"},
        {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_this_machine_and_configured_hosts_and_origins_are_accepted(server: Server, headers: dict[str, str]) -> None:
    answer = server.post("/draw", headers=headers)
    assert answer.status_code == 200
    assert answer.headers.get("access-control-allow-origin") == (PAGE if headers.get("Origin") == PAGE else None)


def ask(server: Server, head: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(head.replace("\n", "\r\n").encode())
        answer = b""
        while b"\r\n\r\n" not in answer and (more := client.recv(65536)):
            answer += more
        return answer


def handshake(server: Server, *headers: str) -> bytes:
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    fixed = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}")
    return ask(server, "\n".join(("GET /live HTTP/1.1", *fixed, *headers, "", "")))


def test_a_foreign_page_opens_no_websocket(server: Server) -> None:
    host = f"Host: localhost:{server.port}"
    before = drawn(server)
    for headers in (
        (host, f"Origin: {EVIL}"),
        (host, "Origin: null"),
        ("Host: evil.example", "Origin: http://evil.example"),
    ):
        assert handshake(server, *headers).startswith(b"HTTP/1.1 403 "), headers
    assert handshake(server, host, host).startswith(b"HTTP/1.1 400 ")
    assert drawn(server) == before
    for headers in ((host,), (host, "Origin: http://localhost:3000"), (host, f"Origin: {PAGE}")):
        assert handshake(server, *headers).startswith(b"HTTP/1.1 101 "), headers
    wait_for(lambda: drawn(server) == before + 3)


@pytest.mark.parametrize("settings", [{}, {"api_keys": "right"}, {"host": "0.0.0.0", "no_auth": True}])
def test_an_ambiguous_host_is_always_rejected(tmp_path: Path, settings: dict[str, object]) -> None:
    with serving(tmp_path, DRAWS, **settings) as server:
        key = "X-API-Key: right\n"
        assert ask(server, f"GET /look HTTP/1.1\n{key}\n").startswith(b"HTTP/1.1 400 ")
        for second in ("localhost", "evil.example"):
            head = f"GET /look HTTP/1.1\nHost: localhost\nHost: {second}\n{key}\n"
            assert ask(server, head).startswith(b"HTTP/1.1 400 ")
        assert b" 200 OK" in ask(server, f"GET /look HTTP/1.0\n{key}\n")
        assert b" 200 OK" in ask(server, f"GET /look HTTP/1.1\nHost: localhost\n{key}\n")


def test_from_the_first_key_on_every_origin_with_a_key_is_accepted(tmp_path: Path) -> None:
    from chutes.server.keys import KeyStore

    headers = {"Origin": EVIL, "Host": "gpu.example"}
    with serving(tmp_path, DRAWS) as server:
        assert server.post("/draw", headers=headers).status_code == 403
        key = KeyStore(tmp_path / "keys.json").create("first")
        wait_for(lambda: server.post("/draw", headers=headers).status_code == 401)
        assert server.post("/draw", headers={**headers, "X-API-Key": key}).status_code == 200
        twice = [("Authorization", f"Bearer {key}"), ("Authorization", "Bearer other")]
        assert server.post("/draw", headers=twice).status_code == 400


def test_a_public_address_has_no_origin_check(tmp_path: Path) -> None:
    with serving(tmp_path, DRAWS, host="0.0.0.0", no_auth=True) as server:
        assert server.post("/draw", headers={"Origin": EVIL, "Host": "gpu.example"}).status_code == 200


def test_metrics_are_open_to_this_machine_but_not_through_a_proxy(tmp_path: Path) -> None:
    with serving(tmp_path, DRAWS, api_keys="right") as server:
        assert server.get("/metrics").status_code == 200
        for headers in (
            {"X-Forwarded-For": "203.0.113.9"},
            {"X-Forwarded-For": "127.0.0.1"},
            {"X-Forwarded-Proto": "https"},
            {"Forwarded": "for=127.0.0.1"},
            {"Via": "1.1 caddy"},
            {"Host": "evil.example"},
        ):
            assert server.get("/metrics", headers=headers).status_code == 401, headers


SLOW = """
from pathlib import Path

@chute.on_startup()
async def load(self):
    while not Path("weights").exists():
        await asyncio.sleep(0.01)

@chute.cord(public_api_path="/slow")
async def slow(self):
    await asyncio.sleep(60)
"""


def test_a_page_of_an_allowed_origin_can_read_all_errors(tmp_path: Path) -> None:
    settings = {"cors_origins": PAGE, "request_timeout": 2, "queue_size": 0, "max_body_bytes": 100}
    with serving(tmp_path, DRAWS + SLOW, wait=False, **settings) as server:
        server.wait_for_port()
        by_page = {"Origin": PAGE}
        answers = [(503, server.get("/ready", headers=by_page)), (503, server.post("/draw", headers=by_page))]
        (tmp_path / "weights").touch()
        server.wait_until_ready()
        with ThreadPoolExecutor(1) as pool:
            times_out = pool.submit(server.post, "/slow", headers=by_page)
            wait_for(lambda: server.metric("chutes_in_flight") == 1)
            answers.append((429, server.post("/draw", headers=by_page)))
            answers.append((504, times_out.result()))
        wait_for(lambda: server.metric("chutes_in_flight") == 0)
        answers += [
            (413, server.post("/draw", json={"prompt": "x" * 101}, headers=by_page)),
            (422, server.post("/draw", json={"prompt": 3}, headers=by_page)),
            (404, server.get("/nothing", headers=by_page)),
            (202, server.post("/jobs/train", headers=by_page)),
            (200, server.get("/jobs", headers=by_page)),
        ]
        for status, answer in answers:
            assert answer.status_code == status
            assert answer.headers.get_list("access-control-allow-origin") == [PAGE], status
            exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
            assert "x-request-id" in exposed
            assert ("retry-after" in exposed) == ("retry-after" in answer.headers)
        assert {status for status, answer in answers if "retry-after" in answer.headers} == {503, 429}


def test_an_invalid_origin_setting_is_reported_at_startup(tmp_path: Path) -> None:
    for name, value in (("cors_origins", "https://app.example/page"), ("allowed_hosts", "http://gpu.example")):
        with serving(tmp_path, DRAWS, wait=False, **{name: value}) as server:
            assert server.wait() == 1
            assert len(server.lines) == 1
            assert f"CHUTES_{name.upper()}" in server.lines[0]
            assert json.dumps(value).strip('"') in server.lines[0]
