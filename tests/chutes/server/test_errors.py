import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, UploadFile
from pydantic import BaseModel
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from chutes.exception import QueueFull
from chutes.server import errors
from chutes.server.errors import from_validation
from chutes.server.logs import request_id


class Picture(BaseModel):
    prompt: str
    width: int = 512


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()

    def draw(picture: Picture) -> int:
        return picture.width

    def many(numbers: list[int]) -> None:
        pass

    def counts(numbers: dict[str, int]) -> None:
        pass

    def full() -> None:
        raise QueueFull("Come back later", headers={"Retry-After": "3"})

    def teapot() -> None:
        raise HTTPException(418, {"why": "I am one"}, headers={"X-Pot": "tea"})

    def crash() -> None:
        raise RuntimeError("secret")

    def upload(file: UploadFile) -> None:
        pass

    app.post("/many")(many)
    app.post("/upload")(upload)
    app.post("/counts")(counts)
    for prefix in ("", "/v1"):
        app.post(f"{prefix}/draw")(draw)
        app.get(f"{prefix}/full")(full)
        app.get(f"{prefix}/teapot")(teapot)
        app.get(f"{prefix}/crash")(crash)
    errors.install(app)
    return TestClient(app, raise_server_exceptions=False)


def test_errors_of_this_package_have_a_detail_and_a_code(client: TestClient) -> None:
    answer = client.get("/full")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json() == {"detail": "Come back later", "code": "queue_full"}
    answer = client.get("/v1/full")
    assert answer.json() == {
        "error": {"message": "Come back later", "type": "rate_limit_error", "code": "queue_full", "param": None}
    }


def test_an_authors_http_exception_keeps_its_status_detail_and_headers(client: TestClient) -> None:
    answer = client.get("/teapot")
    assert (answer.status_code, answer.headers["x-pot"]) == (418, "tea")
    assert answer.json() == {"detail": {"why": "I am one"}}
    error = client.get("/v1/teapot").json()["error"]
    assert json.loads(error["message"]) == {"why": "I am one"}
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/crash", "/v1/crash"])
def test_an_unhandled_exception_reveals_nothing(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Internal server error" in answer.text


def test_an_internal_error_contains_the_request_id() -> None:
    token = request_id.set("r-77")
    body = json.loads(bytes(errors.internal_error("/v1/x").body))
    request_id.reset(token)
    assert body["error"]["message"] == "Internal server error (request r-77)."


def test_an_unknown_path_and_a_wrong_method_are_named(client: TestClient) -> None:
    assert client.get("/nowhere").json() == {"detail": "No route matches /nowhere."}
    assert client.get("/v1/nowhere").json()["error"]["code"] == "not_found"
    wrong = client.get("/draw")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json() == {"detail": "GET is not allowed here. Use POST."}
    assert client.get("/v1/draw").json()["error"]["code"] == "method_not_allowed"


def test_a_validation_error_names_the_field(client: TestClient) -> None:
    answer = client.post("/draw", json={"width": "wide"})
    assert answer.status_code == 422
    assert [field["loc"] for field in answer.json()["detail"]] == [["body", "prompt"], ["body", "width"]]
    error = client.post("/v1/draw", json={"width": "wide"}).json()["error"]
    assert (error["param"], error["code"], error["type"]) == ("prompt", "validation_error", "invalid_request_error")
    assert error["message"].startswith("prompt: ")


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": NaN}',
        b'{"prompt": 1, "width": "\\ud800"}',
        b'{"prompt": [' + b"1," * 1000 + b"1]}",
        b'{"prompt": ' + b"9" * 4000 + b"}",
        b'{"prompt": ' + b"9" * 5000 + b"}",
        b'{"prompt": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        b"[" * 100_000,
        b"\xff\xff",
        b'{"prompt": 1e999, "width": Infinity}',
    ],
)
@pytest.mark.parametrize("path", ["/draw", "/v1/draw"])
def test_input_without_a_json_form_is_422(client: TestClient, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert len(answer.content) < 2000
    json.loads(answer.content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_long_input_is_shortened(client: TestClient) -> None:
    (field,) = client.post("/draw", json={"prompt": "x", "width": "w" * 100_000}).json()["detail"]
    assert field["input"].endswith("… (100000 characters)")
    assert len(field["input"]) < 300


@pytest.mark.parametrize("value", [[0] * 3_000_000, {str(key): 0 for key in range(300)}, [[0] * 100] * 100])
def test_a_value_with_many_parts_is_not_shown(client: TestClient, value: Any) -> None:
    (field,) = client.post("/draw", json={"prompt": value}).json()["detail"]
    assert field["input"] == f"a {type(value).__name__} that is too large to show"


def test_a_value_with_many_parts_is_not_traversed() -> None:
    class Untouched(list[int]):
        def __iter__(self) -> Iterator[int]:
            pytest.fail("its length says enough")

    value = Untouched([0] * 1000)
    errors.from_validation("/draw", [{"type": "string_type", "loc": ("body", "prompt"), "msg": "", "input": value}])


def test_a_malformed_form_is_400(client: TestClient) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
    broken = client.post(
        "/upload", content=body, headers={"Content-Type": "multipart/form-data; boundary=b; charset=undefined"}
    )
    assert broken.status_code == 400
    assert "detail" in broken.json()


def test_a_text_field_in_place_of_a_file_is_422(client: TestClient) -> None:
    (field,) = client.post("/upload", data={"file": "x"}).json()["detail"]
    assert field == {"type": "value_error", "loc": ["body", "file"], "msg": "Input should be a file"}


def test_v1_itself_names_an_invalid_field_as_paths_below_it_do() -> None:
    invalid = [{"type": "missing", "loc": ("body", "prompt"), "msg": "Field required"}]
    assert from_validation("/v1", invalid).body == from_validation("/v1/x", invalid).body


def test_under_v1_a_position_in_invalid_json_is_not_a_parameter(client: TestClient) -> None:
    answer = client.post("/v1/draw", content=b"{,", headers={"Content-Type": "application/json"})
    assert answer.json()["error"]["param"] is None
    assert errors.from_validation("/v1/draw", []).status_code == 422


def test_a_hundred_invalid_fields_are_reported(client: TestClient) -> None:
    answer = client.post("/many", json=["x"] * 5000)
    assert (answer.status_code, len(answer.json()["detail"])) == (422, 100)


def test_a_long_key_is_shortened(client: TestClient) -> None:
    answer = client.post("/counts", json={"k" * 100_000: "x"})
    (field,) = answer.json()["detail"]
    assert field["loc"][1].endswith("… (100000 characters)")
    assert len(answer.content) < 2000


def test_the_authors_exception_handler_is_kept() -> None:
    app = FastAPI()

    @app.exception_handler(HTTPException)
    def author_handler(request: object, error: object) -> PlainTextResponse:
        return PlainTextResponse("mine", 400)

    @app.get("/")
    def crash() -> None:
        raise HTTPException(400)

    errors.install(app)
    assert TestClient(app).get("/").text == "mine"


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        (math.nan, "nan"),
        ([math.inf, 1.5], ["inf", 1.5]),
        ({1: {2}}, {"1": [2]}),
        ("\ud800", "?"),
        (b"x", "b'x'"),
        (True, True),
    ],
)
def test_json_safe(value: Any, safe: Any) -> None:
    assert errors.json_safe(value) == safe
    json.dumps(errors.json_safe(value), allow_nan=False)


def test_a_status_without_a_body_has_none() -> None:
    assert errors.error_response("/x", 304, "ignored").body == b""
