from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.testclient import TestClient

from benchmarks.harness.waiting import wait_for
from chutes.chute import Chute
from chutes.server import Settings, cors, create_app

PAGE = "https://app.example"
KEY = "right"


def make_chute() -> Chute:
    chute = Chute(username="test", name="cors", image="none")

    @chute.cord(public_api_path="/draw")
    async def draw(self: Any, prompt: str) -> Response:
        headers = {
            "X-Seed": "42",
            "Retry-After": "1",
            "Content-Disposition": 'inline; filename="a.png"',
            "Vary": "Accept",
        }
        return Response(prompt, headers=headers)

    @chute.cord(public_api_path="/crash")
    async def crash(self: Any) -> None:
        raise RuntimeError("secret")

    @chute.job()
    async def train(self: Any) -> None:
        pass

    return chute


@pytest.fixture
def chute() -> Chute:
    return make_chute()


def serve(chute: Chute, tmp_path: Path, **options: Any) -> Iterator[TestClient]:
    settings = Settings(keys_file=tmp_path / "keys.json", **options)
    with TestClient(create_app(chute, settings), raise_server_exceptions=False) as client:
        wait_for(lambda: client.get("/ready").status_code == 200)
        yield client


@pytest.fixture
def client(chute: Chute, tmp_path: Path) -> Iterator[TestClient]:
    yield from serve(chute, tmp_path, cors_origins=PAGE, api_keys=(KEY,), max_body_bytes=1000)


def exposed(answer: Any) -> set[str]:
    assert len(answer.headers.get_list("access-control-expose-headers")) == 1
    return {each.strip().lower() for each in answer.headers["access-control-expose-headers"].split(",")}


def test_an_allowed_origin_can_read_a_response_and_its_headers(client: TestClient) -> None:
    answer = client.post("/draw", json={"prompt": "x"}, headers={"Origin": PAGE, "X-API-Key": KEY})
    assert answer.text == "x"
    assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
    assert "access-control-allow-credentials" not in answer.headers
    assert exposed(answer) >= {"x-seed", "x-request-id", "retry-after", "content-disposition", "x-chutes-conn-used"}
    assert exposed(answer) <= {name.lower() for name in answer.headers}
    assert sorted(answer.headers["vary"].split(", ")) == ["Accept", "Origin"]


def test_an_allowed_origin_can_read_errors(client: TestClient) -> None:
    by_page = {"Origin": PAGE}
    with_key = {**by_page, "X-API-Key": KEY}
    answers = {
        401: client.post("/draw", json={}, headers=by_page),
        404: client.get("/nothing", headers=with_key),
        405: client.delete("/draw", headers=with_key),
        413: client.post("/draw", json={"prompt": "x" * 1001}, headers=with_key),
        422: client.post("/draw", json={}, headers=with_key),
        500: client.post("/crash", headers=with_key),
        200: client.get("/ready", headers=by_page),
        202: client.post("/jobs/train", headers=with_key),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE], status
        assert "x-request-id" in exposed(answer), status
    assert "location" in exposed(answers[202])


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example", "https://app.example:444", "null"])
def test_other_origins_get_no_cors_headers(client: TestClient, origin: str) -> None:
    answer = client.get("/ready", headers={"Origin": origin})
    assert "access-control-allow-origin" not in answer.headers
    assert "Origin" in answer.headers["vary"]
    preflight = client.options("/draw", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert "access-control-allow-origin" not in preflight.headers


def test_a_preflight_needs_no_key(client: TestClient) -> None:
    wanted = "authorization,content-type,x-api-key,x-request-id,x-stainless-lang"
    preflight_headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
    preflight = client.options("/draw", headers={"Origin": PAGE, **preflight_headers})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert preflight.headers["access-control-allow-headers"] == wanted
    assert {"POST", "GET", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
    assert int(preflight.headers["access-control-max-age"]) > 0
    private = client.options(
        "/draw", headers={"Origin": PAGE, **preflight_headers, "Access-Control-Request-Private-Network": "true"}
    )
    assert private.headers["access-control-allow-private-network"] == "true"
    assert client.options("/draw", headers=preflight_headers).status_code == 401  # no Origin, so not a preflight


def test_a_star_allows_every_origin(chute: Chute, tmp_path: Path) -> None:
    for client in serve(chute, tmp_path, cors_origins="*"):
        for origin in (PAGE, "null"):
            assert client.get("/ready", headers={"Origin": origin}).headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in client.get("/ready").headers


def test_without_the_setting_no_cors_headers_are_added(chute: Chute, tmp_path: Path) -> None:
    for client in serve(chute, tmp_path):
        headers = client.get("/ready", headers={"Origin": PAGE}).headers
        assert not [name for name in headers if name.startswith("access-control") or name == "vary"]


@pytest.mark.parametrize("positional", [True, False])
def test_the_authors_options_apply_to_every_response(chute: Chute, tmp_path: Path, positional: bool) -> None:
    if positional:
        chute.add_middleware(CORSMiddleware, [PAGE], ("POST",), (), True)
    else:
        options: dict[str, Any] = {"allow_methods": ["POST"], "allow_credentials": True, "expose_headers": ["X-Mine"]}
        chute.add_middleware(CORSMiddleware, allow_origins=[PAGE], **options)
    for _ in range(2):  # a chute may be served again
        for client in serve(chute, tmp_path, cors_origins="https://other.example", api_keys=(KEY,)):
            for answer in (
                client.post("/draw", json={}, headers={"Origin": PAGE}),
                client.post("/draw", json={"prompt": "x"}, headers={"Origin": PAGE, "X-API-Key": KEY}),
            ):
                assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
                assert answer.headers.get_list("access-control-allow-credentials") == ["true"]
                assert exposed(answer) >= {"x-request-id"} | (set() if positional else {"x-mine"})
                assert answer.headers["vary"].count("Origin") == 1
            preflight_headers = {"Access-Control-Request-Method": "POST"}
            assert client.options("/draw", headers={"Origin": PAGE, **preflight_headers}).status_code == 200
            refused = client.options("/draw", headers={"Origin": PAGE, "Access-Control-Request-Method": "PUT"})
            assert refused.status_code == 400
            other = client.get("/ready", headers={"Origin": "https://other.example"})
            assert "access-control-allow-origin" not in other.headers


def test_the_authors_subclass_of_corsmiddleware_is_used(chute: Chute, tmp_path: Path) -> None:
    class Tenants(CORSMiddleware):
        def is_allowed_origin(self, origin: str) -> bool:
            return origin.endswith(".tenants.example")

    chute.add_middleware(Tenants)
    for client in serve(chute, tmp_path, api_keys=(KEY,)):
        origin = "https://one.tenants.example"
        answer = client.post("/draw", json={}, headers={"Origin": origin})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, origin)


@pytest.mark.parametrize(
    "wrong",
    ["app.example", "https://", "https://app.example/", "https://app.example/page", "null", "https://*.example"],
)
def test_an_invalid_origin_is_rejected_at_startup(wrong: str) -> None:
    with pytest.raises(ValidationError, match=r"is not an origin\. Write https://example\.com without a path"):
        Settings(cors_origins=f"https://fine.example,{wrong}")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["http://gpu.example", "gpu.example/x", "*.*.example", "gpu example", "**"])
def test_an_invalid_host_is_rejected_at_startup(wrong: str) -> None:
    with pytest.raises(ValidationError, match="is not a host name"):
        Settings(allowed_hosts=wrong)  # type: ignore[arg-type]


def test_origins_are_normalized_to_what_browsers_send() -> None:
    settings = Settings(
        cors_origins="HTTPS://App.Example:443, http://b.example:80,http://c.example:8080,http://[::1]:5173"
    )  # type: ignore[arg-type]
    assert settings.cors_origins == (
        "https://app.example",
        "http://b.example",
        "http://c.example:8080",
        "http://[::1]:5173",
    )


def test_options_are_json_values(chute: Chute) -> None:
    chute.add_middleware(
        CORSMiddleware, ("https://a.example",), allow_headers={"X-Mine"}, allow_origin_regex=r"https://b\..*"
    )
    layer = cors.take_middleware(chute)
    assert layer is not None
    assert cors.options(layer) == {
        "allow_origins": ["https://a.example"],
        "allow_headers": ["X-Mine"],
        "allow_origin_regex": r"https://b\..*",
    }
    assert cors.explicit_origins(layer) == ["https://a.example"]
