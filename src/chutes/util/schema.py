"""JSON schemas of a cord's input and output, in the hosted platform's format.

An input is wrapped as `{"properties": {<parameter>: {"$ref": "#/definitions/Model"}}, "definitions": {...}}`.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError
from starlette.responses import Response

_DEFINITIONS = "#/definitions/{model}"

Schema = dict[str, Any]


class SchemaExtractor:
    """An extractor of schemas from models and functions' annotations. A function's first parameter is the chute."""

    @staticmethod
    def get_minimal_schema(model: type[BaseModel]) -> Schema:
        """Return the wrapped schema of one model, under the name `input_args`."""
        return _wrap({"input_args": model})

    @classmethod
    def extract_models(cls, func: Callable[..., Any]) -> list[type[BaseModel]] | None:
        """Return the models among a function's parameters, or None if a parameter is not a model."""
        hints = list(_parameters(func).values())
        return hints if all(isinstance(hint, type) and issubclass(hint, BaseModel) for hint in hints) else None

    @classmethod
    def extract_schemas(cls, func: Callable[..., Any]) -> tuple[Schema, str | None, Schema]:
        """Return the input's schema, the output's content type, and the output's schema."""
        output = cls.output_schema(func)
        content_type = None
        if output:
            content_type = "application/json" if output.get("type") == "object" else "text/plain"
        return _wrap(_parameters(func)), content_type, output or {}

    @staticmethod
    def output_schema(func: Callable[..., Any]) -> Schema | None:
        """Return the schema of the return type: `{}` for a `Response`, None without a usable annotation."""
        hint = _hints(func).get("return", inspect.Parameter.empty)
        if hint is inspect.Parameter.empty:
            return None
        if isinstance(hint, type) and issubclass(hint, Response):
            return {}
        return _schema(hint)


def _wrap(hints: Mapping[str, Any]) -> Schema:
    wrapped: Schema = {"type": "object", "properties": {}, "required": list(hints), "definitions": {}}
    for name, hint in hints.items():
        schema = _schema(hint) or {}
        definitions = schema.pop("$defs", {})
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            definitions[hint.__name__] = schema if "$ref" not in schema else definitions[hint.__name__]
            schema = {"$ref": _DEFINITIONS.format(model=hint.__name__)}
        wrapped["properties"][name] = schema
        wrapped["definitions"] |= definitions
    return wrapped


def _schema(hint: Any) -> Schema | None:
    """Return the JSON schema of a type, or None if it has none."""
    try:
        return TypeAdapter(hint).json_schema(ref_template=_DEFINITIONS)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None


def _hints(func: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(func)
    except (NameError, TypeError):
        return {}


def _parameters(func: Callable[..., Any]) -> dict[str, Any]:
    hints = _hints(func)
    return {name: hints.get(name, Any) for name in list(inspect.signature(func).parameters)[1:]}
