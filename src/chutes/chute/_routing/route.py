"""FastAPI routes with a bounded number of validation errors, and with a check of the body's media type."""

import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response, params
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from chutes.chute._handler.media import BodyKind, body_headers
from chutes.chute._handler.signature import MAX_CONVERTED, too_many_errors

if TYPE_CHECKING:
    from fastapi.dependencies.models import Dependant

PARSED_JSON = "chutes.json"
"""The key of the ASGI scope under which the runtime stores the JSON body that it has checked and parsed."""


class ChuteRoute(APIRoute):
    """A route that uses the JSON body parsed by the runtime, and reports a bounded number of validation errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Starlette's pattern ends with `$`, which also matches before a newline, as in `/draw%0A`.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")
        _bound_adapters(self.dependant)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, with the body that the runtime has parsed."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if PARSED_JSON in request.scope:
                request._json = request.scope[PARSED_JSON]  # noqa: SLF001 - Starlette's cache of the parsed body
            return await handler(request)

        return handle


class BodyCheckRoute(ChuteRoute):
    """A route of a cord or a job. It rejects a body of another media type with 415, where FastAPI would ignore it."""

    @property
    def body_kind(self) -> BodyKind | None:
        """How FastAPI parses the body; None if no parameter takes it."""
        if self.body_field is None:
            return None
        return "form" if isinstance(self.body_field.field_info, params.Form) else "json"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, preceded by the check of the media type."""
        handler = super().get_route_handler()
        expected = self.body_kind

        async def handle(request: Request) -> Response:
            if PARSED_JSON not in request.scope:  # otherwise the runtime has checked it
                body_headers(request.scope["headers"]).check_media_type(expected)
            return await handler(request)

        return handle


class _BoundedAdapter:
    """A TypeAdapter that replaces more than `MAX_CONVERTED` errors by one error with their number."""

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def validate_python(self, value: Any, **options: Any) -> Any:
        try:
            return self._adapter.validate_python(value, **options)
        except ValidationError as error:
            if (count := error.error_count()) <= MAX_CONVERTED:
                raise
        error_type = PydanticCustomError("too_many_errors", too_many_errors(count))
        raise ValidationError.from_exception_data("body", [InitErrorDetails(type=error_type, input=None)])


def _bound_adapters(dependant: "Dependant") -> None:
    for field in dependant.body_params:
        field._type_adapter = _BoundedAdapter(field._type_adapter)  # type: ignore[assignment]  # noqa: SLF001
    for dependency in dependant.dependencies:
        _bound_adapters(dependency)
