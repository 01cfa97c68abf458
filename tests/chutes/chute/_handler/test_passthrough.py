import importlib.util
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from chutes.chute import Chute

Serve = Callable[[Chute], TestClient]

_spec = importlib.util.spec_from_file_location("upstream", Path(__file__).with_name("upstream.py"))
assert _spec
assert _spec.loader
upstream = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(upstream)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with upstream.running() as port:
        yield port


@pytest.fixture
def client(port: int, serve: Serve) -> TestClient:
    chute = Chute("myuser", "proxy", "img", passthrough_headers={"Authorization": "Bearer upstream-key"})

    def add(name: str, **options: Any) -> None:
        async def handler(self: Chute) -> None:
            raise AssertionError("passed on, never called")

        handler.__name__ = name
        chute.cord(passthrough=True, passthrough_port=port, passthrough_path=f"/v1/{name}", **options)(handler)

    add("echo", public_api_path="/v1/echo")
    add("stream", stream=True)
    add("cut")
    add("packed", method="GET", public_api_method="GET")
    return serve(chute)


def test_request_and_response_are_forwarded(client: TestClient) -> None:
    headers = {"authorization": "Bearer mine", "x-api-key": "mine", "cookie": "a=b", "x-own": "1"}
    response = client.post("/v1/echo?a=1&b=%20", json={"prompt": "é"}, headers=headers)
    seen = response.json()
    assert (response.status_code, response.headers["x-upstream"]) == (200, "yes")
    assert "x-request-id" not in response.headers
    assert (seen["method"], seen["query"], json.loads(seen["body"])) == ("POST", "a=1&b=%20", {"prompt": "é"})
    assert seen["headers"]["authorization"] == "Bearer upstream-key"
    assert seen["headers"]["x-own"] == "1"
    assert seen["headers"]["content-type"] == "application/json"
    assert not {"x-api-key", "cookie"} & seen["headers"].keys()


def test_headers_of_one_connection_are_not_forwarded(client: TestClient) -> None:
    response = client.post("/v1/echo", headers={"connection": "keep-alive, X-Hop", "x-hop": "1", "x-end": "2"})
    seen = response.json()["headers"]
    assert "x-hop" not in seen
    assert seen["x-end"] == "2"
    assert "x-upstream-hop" not in response.headers


@pytest.mark.parametrize("query", ["", "?a=1"])
def test_the_request_target_is_forwarded_unchanged(serve: Serve, query: str) -> None:
    chute = Chute("myuser", "proxy", "img")
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        @chute.cord(passthrough=True, passthrough_port=listener.getsockname()[1], method="GET", public_api_method="GET")
        async def plain(self: Chute) -> None: ...

        response = pool.submit(serve(chute).get, f"/plain{query}")
        connection, _ = listener.accept()
        with connection:
            target = connection.recv(65536).split(b" ")[1].decode()
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert response.result().status_code == 204
    assert target == f"/plain{query}"


@pytest.mark.parametrize("status", [201, 404, 422, 503])
def test_the_upstreams_status_is_forwarded(client: TestClient, status: int) -> None:
    response = client.post(f"/v1/echo?status={status}", content=b"")
    assert (response.status_code, response.json()["body"]) == (status, "")


def test_a_stream_is_forwarded_as_it_arrives(client: TestClient) -> None:
    with client.stream("POST", "/stream", json={"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert b"".join(response.iter_raw()) == b'data: {"i": 0}\n\ndata: {"i": 1}\n\ndata: {"i": 2}\n\n'


def test_an_encoded_body_is_forwarded_unchanged(client: TestClient) -> None:
    response = client.get("/packed")
    assert (response.text, response.headers["content-encoding"]) == ("unpacked", "gzip")


def test_if_the_upstream_closes_early_the_response_ends_incomplete(client: TestClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/cut", json={})


def test_an_upstream_that_is_down_is_502(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    chute = Chute("myuser", "proxy", "img")

    @chute.cord(passthrough=True, passthrough_port=free)
    async def chat(self: Any) -> None: ...

    response = serve(chute).post("/chat", json={})
    assert response.status_code == 502
    assert str(free) not in response.text


def test_a_silent_upstream_is_504(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chutes.chute.cord._READ_TIMEOUT", 0.1)
    chute = Chute("myuser", "proxy", "img")
    with socket.create_server(("127.0.0.1", 0)) as silent:

        @chute.cord(passthrough=True, passthrough_port=silent.getsockname()[1])
        async def chat(self: Any) -> None: ...

        assert serve(chute).post("/chat", json={}).status_code == 504
