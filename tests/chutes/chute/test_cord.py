import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from chutes.chute import Chute, Cord
from chutes.chute.cord import PATH_RE
from chutes.exception import ChutesWarning, DuplicatePath, InvalidPath

Serve = Callable[[Chute], TestClient]


class Input(BaseModel):
    prompt: str
    n: int = 1


@pytest.mark.parametrize(
    ("written", "path"),
    [("gen", "/gen"), ("//a", "/a"), ("/a/", "/a"), ("/v1/chat/completions", "/v1/chat/completions"), ("/1a", "/1a")],
)
def test_paths_are_normalised(chute: Chute, written: str, path: str) -> None:
    assert Cord(chute, path=written).path == path
    assert Cord(chute, public_api_path=written).public_api_path == path
    assert Cord(chute, passthrough_path=written).passthrough_path == path
    assert PATH_RE.match(path)


@pytest.mark.parametrize("path", ["/Gen", "/a.b", "/a{b}", "/-a", "/", "", "/a b", "/a\n"])
def test_invalid_paths(chute: Chute, path: str) -> None:
    for option in ("path", "public_api_path", "passthrough_path"):
        with pytest.raises(InvalidPath) as refused:
            chute.cord(**{option: path})
        assert str(refused.value).startswith(f"Cord {option} must consist of ")
        assert str(refused.value).endswith(f"; got {path!r}.")


def test_a_cord_without_a_path_is_served_at_its_own_name(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def greet(self: Any) -> str:
        return "hi"

    cord = chute.cords[0]
    assert (cord.name, cord.path, cord.public_api_path, cord.route_path) == ("greet", "/greet", None, "/greet")
    assert cord.func is greet
    assert serve(chute).post("/greet").json() == "hi"


@pytest.mark.parametrize(
    ("options", "verb"),
    [
        ({}, "POST"),
        ({"method": "get"}, "GET"),
        ({"method": "PUT"}, "PUT"),
        ({"method": "GET", "public_api_method": "POST"}, "POST"),
        ({"method": "GET", "passthrough": True}, "POST"),
        ({"method": "GET", "passthrough": True, "public_api_method": "GET"}, "GET"),
    ],
)
def test_the_public_method(chute: Chute, options: dict[str, Any], verb: str) -> None:
    @chute.cord(**options)
    async def greet(self: Any) -> None: ...

    assert chute.cords[0].route_methods == {verb}


@pytest.mark.parametrize("option", ["method", "public_api_method"])
def test_an_invalid_method(chute: Chute, option: str) -> None:
    with pytest.raises(ValueError, match=f"Cord {option} must be an HTTP method such as .*; got 'FOO'"):
        chute.cord(**{option: "FOO"})


def test_another_method_is_405(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def greet(self: Any) -> None: ...

    assert serve(chute).get("/greet").status_code == 405


def test_the_same_public_path_twice(chute: Chute, serve: Serve) -> None:
    @chute.cord(public_api_path="/generate")
    async def generate(self: Any) -> str:
        return "first"

    assert "generate" in chute.openapi()["paths"]["/generate"]["post"]["operationId"]

    with pytest.warns(ChutesWarning, match="'generate_with_fallback' replaces cord 'generate'") as caught:

        @chute.cord(public_api_path="/generate")
        async def generate_with_fallback(self: Any) -> str:
            return "second"

    assert caught[0].filename == __file__
    assert [cord.name for cord in chute.cords] == ["generate_with_fallback"]
    assert serve(chute).post("/generate").json() == "second"
    assert "fallback" in chute.openapi()["paths"]["/generate"]["post"]["operationId"]
    assert asyncio.run(generate(chute)) == "first"


def test_the_same_function_name_twice(chute: Chute, serve: Serve) -> None:
    for answer in ("first", "second"):

        async def generate(self: Any, answer: str = answer) -> str:
            return answer

        if answer == "first":
            chute.cord()(generate)
        else:
            with pytest.warns(ChutesWarning, match="replaces"):
                chute.cord()(generate)
    assert serve(chute).post("/generate", json={}).json() == "second"


def test_one_path_with_two_methods(chute: Chute, serve: Serve) -> None:
    @chute.cord(public_api_path="/thing", method="GET")
    async def read(self: Any) -> str:
        return "read"

    @chute.cord(public_api_path="/thing", method="POST")
    async def write(self: Any) -> str:
        return "write"

    client = serve(chute)
    assert (client.get("/thing").json(), client.post("/thing").json()) == ("read", "write")


def test_one_internal_path_for_two_public_paths(chute: Chute) -> None:
    async def generate(self: Any) -> None: ...

    chute.cord(public_api_path="/a")(generate)
    with pytest.raises(DuplicatePath, match="served at /a"):
        chute.cord(public_api_path="/b")(generate)
    chute.cord(public_api_path="/b", path="/other")(generate)


def test_a_cord_replaces_fastapis_own_pages_and_earlier_routes(chute: Chute, serve: Serve) -> None:
    @chute.cord(public_api_path="/docs", method="GET")
    async def docs(self: Any) -> str:
        return "mine"

    @chute.get("/status")
    async def native() -> str:
        return "native"

    with pytest.warns(ChutesWarning, match="replaces"):

        @chute.cord(method="GET")
        async def status(self: Any) -> str:
            return "cord"

    client = serve(chute)
    assert (client.get("/docs").json(), client.get("/status").json()) == ("mine", "cord")


def test_unknown_arguments_warn_and_are_kept(chute: Chute) -> None:
    with pytest.warns(ChutesWarning, match="Did you mean 'public_api_path'"):
        cord = chute.cord(public_path="/x")
    assert cord.session_kwargs == {"public_path": "/x"}


def test_schemas_have_upstreams_form(chute: Chute) -> None:
    @chute.cord(minimal_input_schema=Input)
    async def draw(self: Any, params: Input) -> dict[str, Any]:
        return {}

    @chute.cord(input_schema=Input, output_content_type="image/jpeg")
    async def shoot(self: Any, args: dict[str, Any]) -> str:
        return ""

    draw_cord, shoot_cord = chute.cords
    assert draw_cord.input_models == [Input]
    assert draw_cord.input_schema["properties"] == {"params": {"$ref": "#/definitions/Input"}}
    assert draw_cord.minimal_input_schema is not None
    assert draw_cord.minimal_input_schema["required"] == ["input_args"]
    assert draw_cord.minimal_input_schema["definitions"]["Input"]["required"] == ["prompt"]
    assert (draw_cord.output_schema["type"], draw_cord.output_content_type) == ("object", "application/json")
    assert shoot_cord.input_models == [Input]
    assert shoot_cord.input_schema["properties"] == {"input_args": {"$ref": "#/definitions/Input"}}
    assert (shoot_cord.output_schema, shoot_cord.output_content_type) == ({"type": "string"}, "image/jpeg")


def test_a_schema_is_a_model_or_a_dict(chute: Chute) -> None:
    assert chute.cord(input_schema={"type": "object"}).input_schema == {"type": "object"}
    with pytest.raises(TypeError, match=r"must be a subclass of pydantic\.BaseModel or a dict"):
        chute.cord(input_schema=[])
