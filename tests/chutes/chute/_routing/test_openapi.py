from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Response, UploadFile
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from chutes.chute import Chute


class Input(BaseModel):
    prompt: str
    width: int = Field(default=1024, ge=128)


class Minimal(BaseModel):
    prompt: str = "a mountain"


class Output(BaseModel):
    seed: int


def operation(chute: Chute, path: str, verb: str = "post") -> dict[str, Any]:
    found: dict[str, Any] = chute.openapi()["paths"][path][verb]
    return found


def content(operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = operation["responses"]["200"]["content"]
    return found


def test_a_model_is_the_body_and_the_docstring_the_description(chute: Chute) -> None:
    @chute.cord(minimal_input_schema=Minimal, output_content_type="image/jpeg")
    async def draw(self: Any, params: Input) -> Response:
        """Draw a picture.

        Slowly.
        """
        return Response()

    found = operation(chute, "/draw")
    assert (found["summary"], found["description"]) == ("Draw a picture", "Draw a picture.\n\nSlowly.")
    body = found["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Input"}
    assert body["content"]["application/json"]["example"] == {"prompt": "a mountain"}
    assert content(found) == {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
    assert "422" in found["responses"]
    assert chute.openapi()["components"]["schemas"]["Input"]["properties"]["width"]["minimum"] == 128


def test_bare_parameters_are_properties(chute: Chute) -> None:
    @chute.cord()
    async def sdxl(self: Any, prompt: str, width: int = 1024) -> dict[str, str]:
        return {}

    body = operation(chute, "/sdxl")["requestBody"]
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = chute.openapi()["components"]["schemas"][name]
    assert (body["required"], schema["required"]) == (True, ["prompt"])
    assert schema["properties"]["width"] == {"type": "integer", "title": "Width", "default": 1024}


def test_a_body_of_defaults_is_optional(chute: Chute) -> None:
    @chute.cord()
    async def draw(self: Any, params: Minimal) -> Output:
        return Output(seed=1)

    found = operation(chute, "/draw")
    assert found["requestBody"]["required"] is False
    assert content(found) == {"application/json": {"schema": {"$ref": "#/components/schemas/Output"}}}


def test_query_parameters_files_and_untyped_bodies(chute: Chute) -> None:
    @chute.cord(method="GET")
    async def find(self: Any, params: Input) -> list[int]:
        return []

    @chute.cord()
    async def upload(self: Any, file: UploadFile) -> str:
        return ""

    @chute.cord()
    async def whole(self: Any, args: dict[str, Any]) -> HTMLResponse:
        return HTMLResponse()

    parameters = operation(chute, "/find", "get")["parameters"]
    assert [(p["name"], p["in"], p["required"]) for p in parameters] == [
        ("prompt", "query", True),
        ("width", "query", False),
    ]
    assert list(operation(chute, "/upload")["requestBody"]["content"]) == ["multipart/form-data"]
    assert operation(chute, "/whole")["requestBody"]["content"]["application/json"]["schema"]["type"] == "object"
    assert list(content(operation(chute, "/whole"))) == ["text/html"]


def test_streams_and_bytes(chute: Chute) -> None:
    @chute.cord()
    async def steps(self: Any) -> AsyncIterator[dict[str, Any]]:
        yield {}

    @chute.cord(stream=True, output_content_type="text/event-stream")
    async def events(self: Any) -> AsyncIterator[str]:
        yield ""

    @chute.cord()
    async def raw(self: Any) -> bytes:
        return b""

    assert list(content(operation(chute, "/steps"))) == ["application/x-ndjson"]
    assert list(content(operation(chute, "/events"))) == ["text/event-stream"]
    assert list(content(operation(chute, "/raw"))) == ["application/octet-stream"]


def test_a_passthrough_cord_has_no_response_schema(chute: Chute) -> None:
    @chute.cord(passthrough=True, input_schema=Input)
    async def chat(self: Any) -> None: ...

    found = operation(chute, "/chat")
    assert found["requestBody"]["content"]["application/json"]["schema"]["required"] == ["prompt"]
    assert found["responses"]["200"] == {"description": "The upstream's response"}


def test_docs_pages_are_served(chute: Chute, serve: Callable[[Chute], TestClient]) -> None:
    client = serve(chute)
    assert client.get("/openapi.json").json()["info"]["title"] == "test"
    assert "swagger" in client.get("/docs").text
    assert client.get("/redoc").status_code == 200
