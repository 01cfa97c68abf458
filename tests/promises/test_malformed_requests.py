"""Malformed requests get a 4xx, never a 500, and the server keeps serving."""

import pytest

from benchmarks.harness.server import Server, serving, wait_for

TYPED = """
from fastapi import APIRouter
from pydantic import BaseModel, Field

class Picture(BaseModel):
    prompt: str = Field(min_length=1)
    width: int = Field(default=512, ge=128, le=2048)
    scale: float = Field(default=1.0, ge=0, le=20)

@chute.cord(public_api_path="/draw")
async def draw(self, picture: Picture) -> dict:
    return {"width": picture.width}

@chute.cord(public_api_path="/v1/draw")
async def openai_draw(self, picture: Picture) -> dict:
    return {"width": picture.width}

@chute.cord(public_api_path="/any")
async def anything(self, args: dict) -> dict:
    return {"keys": len(args)}

class Eight(BaseModel):
    a: int; b: int; c: int; d: int; e: int; f: int; g: int; h: int

class Many(BaseModel):
    items: list[Eight]

@chute.cord(public_api_path="/many")
async def many(self, body: Many) -> int:
    return len(body.items)

@chute.post("/native")
async def native(body: Many) -> int:
    return len(body.items)

router = APIRouter()

@router.post("/included")
async def included(body: Many) -> int:
    return len(body.items)

chute.include_router(router)

@chute.cord(public_api_path="/fails")
async def fails(self) -> dict:
    raise RuntimeError("secret detail of /home/author/model.py")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> "object":
    with serving(tmp_path_factory.mktemp("malformed"), TYPED) as running:
        yield running
        assert running.post("/draw", json={"prompt": "x"}).json() == {"width": 512}


@pytest.mark.parametrize("path", ["/draw", "/v1/draw"])
@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"{", ""),
        (b"", ""),
        (b"null", ""),
        (b"[]", ""),
        (b'"text"', ""),
        (b"\xff\xfe", ""),
        (b'{"prompt": "a\x00b"}', ""),
        (b"{}", "prompt"),
        (b'{"prompt": ""}', "prompt"),
        (b'{"prompt": 3}', "prompt"),
        (b'{"prompt": null}', "prompt"),
        (b'{"prompt": "\\ud800"}', "prompt"),
        (b'{"prompt": "x", "width": 127}', "width"),
        (b'{"prompt": "x", "width": -1}', "width"),
        (b'{"prompt": "x", "width": 1e400}', "width"),
        (b'{"prompt": "x", "width": 1e30}', "width"),
        (b'{"prompt": "x", "width": "wide"}', "width"),
        (b'{"prompt": "x", "width": ' + b"9" * 4000 + b"}", "width"),
        (b'{"prompt": "x", "width": ' + b"9" * 5000 + b"}", "width"),
        (b'{"prompt": "x", "width": NaN}', "width"),
        (b'{"prompt": "x", "scale": -Infinity}', "scale"),
        (b'{"prompt": "x", "scale": 1e999}', "scale"),
        (b"[" * 40_000, ""),
        (b'{"prompt": ' + b'{"a":' * 2000 + b"1" + b"}" * 2000 + b"}", ""),
    ],
)
def test_an_invalid_body_is_422_and_names_the_field(server: Server, path: str, body: bytes, names: str) -> None:
    answer = server.post(path, json=None, content=body, headers={"Content-Type": "application/json"})
    print(answer.status_code, answer.text[:200])
    assert answer.status_code == 422
    assert len(answer.content) < 2500
    if path == "/v1/draw":
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] == names or not names
    else:
        assert isinstance(answer.json()["detail"], list)
        assert not names or any(names in field["loc"] for field in answer.json()["detail"])


def test_a_long_value_is_not_sent_back(server: Server) -> None:
    answer = server.post("/draw", json={"prompt": "x", "width": "w" * 100_000})
    assert answer.status_code == 422
    assert len(answer.content) < 1000


@pytest.mark.parametrize("path", ["/many", "/native"])
def test_validation_errors_beyond_the_limit_are_counted(server: Server, path: str) -> None:
    body = b'{"items": [' + b",".join([b"{}"] * 24_990) + b"]}"
    answer = server.post(path, json=None, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "199920 values" in answer.text
    few = server.post(path, json={"items": [{}] * 20})
    assert len(few.json()["detail"]) == 100
    assert few.json()["detail"][0]["loc"] == ["body", "items", 0, "a"]


def test_an_included_router_reports_at_most_a_hundred_validation_errors(server: Server) -> None:
    answer = server.post("/included", json={"items": [{}] * 2000})
    assert (answer.status_code, len(answer.json()["detail"])) == (422, 100)


def test_a_path_with_a_trailing_newline_is_404(server: Server) -> None:
    for path in ("/health%0A", "/ready%0A", "/draw%0A"):
        assert server.get(path).status_code == 404


def test_unusual_values_in_a_free_form_dict_are_not_500(server: Server) -> None:
    for body in (b'{"a": "\\ud800"}', b'{"a": "\\u0000"}', b'{"a": 1e999}', b'{"a": NaN}'):
        answer = server.post("/any", json=None, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in {200, 422}


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/v1/nowhere", 404), ("/draw/", 404), ("/%00", 404)])
def test_unknown_routes_are_404_in_json(server: Server, path: str, status: int) -> None:
    answer = server.post(path, json=None, content=b"{}")
    assert answer.status_code in {status, 307}
    if answer.status_code == status:
        assert answer.json()


def test_a_wrong_method_is_405_and_names_the_allowed_one(server: Server) -> None:
    for path in ("/draw", "/v1/draw"):
        answer = server.get(path)
        assert answer.status_code == 405
        assert "POST" in answer.headers["allow"]
    assert server.post("/health").status_code == 405


def test_an_unhandled_exception_reveals_only_its_request_id(server: Server) -> None:
    answer = server.post("/fails")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert ".py" not in answer.text
    assert answer.headers["x-request-id"] in answer.json()["detail"]
    wait_for(lambda: any("exception" in line for line in server.log))
    (logged,) = [line for line in server.log if "exception" in line]
    assert logged["request_id"] == answer.headers["x-request-id"]
    assert "secret detail" in logged["exception"]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /draw HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_bytes_that_are_not_http_are_400(server: Server, sent: bytes) -> None:
    with server.connect() as client:
        client.sendall(sent)
        assert client.recv(1000).startswith(b"HTTP/1.1 4")


def test_a_connection_closed_in_mid_body_leaks_nothing(server: Server) -> None:
    for _ in range(5):
        with server.connect() as client:
            client.sendall(b"POST /draw HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert server.metric("chutes_in_flight") == 0


def test_two_requests_in_one_packet_get_two_responses(server: Server) -> None:
    one = b"POST /draw HTTP/1.1\r\nHost: localhost\r\n"
    one += b'Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{"prompt": "x"}'
    with server.connect() as client:
        client.sendall(one + one)
        received = b""
        while received.count(b'{"width":512}') < 2:
            received += client.recv(4096)
        assert received.count(b"HTTP/1.1 200") == 2
