"""FastAPI's routes with bounded validation errors, and for cords with a check of the body's media type."""

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
"""The key of the ASGI scope under which the runtime leaves the JSON body that it has checked and parsed."""


class ChuteRoute(APIRoute):
    """A route that uses the JSON body parsed by the runtime, and reports a bounded number of validation errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Starlette's pattern ends with `$`, which also matches before a newline, as in `/draw%0A`.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")
        _bound_errors(self.dependant)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, which gets the body that the runtime has parsed."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if PARSED_JSON in request.scope:
                request._json = request.scope[PARSED_JSON]  # noqa: SLF001 - where Starlette keeps it
            return await handler(request)

        return handle


class CordRoute(ChuteRoute):
    """The route of a cord or of jobs: it answers 415 where FastAPI would ignore a body of another media type."""

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


class _BoundedErrors:
    """A TypeAdapter that reports the number of errors instead of more than `MAX_CONVERTED` errors."""

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
        kind = PydanticCustomError("too_many_errors", too_many_errors(count))
        raise ValidationError.from_exception_data("body", [InitErrorDetails(type=kind, input=None)])


def _bound_errors(dependant: "Dependant") -> None:
    for field in dependant.body_params:
        field._type_adapter = _BoundedErrors(field._type_adapter)  # type: ignore[assignment]  # noqa: SLF001
    for dependency in dependant.dependencies:
        _bound_errors(dependency)
