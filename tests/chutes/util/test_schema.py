from typing import Any

from fastapi import Response
from pydantic import BaseModel

from chutes.util.schema import SchemaExtractor


class Inner(BaseModel):
    x: int


class Outer(BaseModel):
    inner: Inner
    name: str | None = None


def test_minimal_schema_has_all_its_definitions() -> None:
    schema = SchemaExtractor.get_minimal_schema(Outer)
    assert schema["properties"] == {"input_args": {"$ref": "#/definitions/Outer"}}
    assert schema["required"] == ["input_args"]
    assert schema["definitions"].keys() == {"Outer", "Inner"}
    assert schema["definitions"]["Outer"]["properties"]["inner"] == {"$ref": "#/definitions/Inner"}


def test_a_recursive_model() -> None:
    class Tree(BaseModel):
        children: list["Tree"] = []

    assert SchemaExtractor.get_minimal_schema(Tree)["definitions"]["Tree"]["properties"]["children"]


def test_functions() -> None:
    async def draw(self: Any, params: Outer, n: int = 1) -> dict[str, int]:
        return {}

    async def save(self: Any, params: Outer) -> Response:
        return Response()

    async def nothing(self):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return None

    schema, content_type, output = SchemaExtractor.extract_schemas(draw)
    assert schema["required"] == ["params", "n"]
    assert schema["properties"]["n"] == {"type": "integer"}
    assert (content_type, output["type"]) == ("application/json", "object")
    assert SchemaExtractor.extract_models(draw) is None
    assert SchemaExtractor.extract_models(save) == [Outer]
    assert SchemaExtractor.extract_schemas(save)[1:] == (None, {})
    assert SchemaExtractor.extract_models(nothing) == []
    assert SchemaExtractor.extract_schemas(nothing)[1:] == (None, {})
