"""The route of a cord: FastAPI's, with a check of the media type before the body is read."""

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response, params
from fastapi.routing import APIRoute

from chutes.chute._media import BodyKind, check_media_type

PARSED_JSON = "chutes.json"
"""The scope's key for a JSON body that the runtime has checked and parsed."""


class CordRoute(APIRoute):
    """Answers 415 where FastAPI would continue without the body: with defaults, or reporting missing fields."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Starlette's pattern ends with `$`, which also matches before a newline: but `/draw%0A` is not `/draw`.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")

    @property
    def body_kind(self) -> BodyKind | None:
        """What FastAPI parses the body as; None if no parameter takes it."""
        if self.body_field is None:
            return None
        return "form" if isinstance(self.body_field.field_info, params.Form) else "json"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind the check; a body that was parsed already is not parsed again."""
        handler = super().get_route_handler()
        expected = self.body_kind

        async def handle(request: Request) -> Response:
            check_media_type(request.scope["headers"], expected)
            if PARSED_JSON in request.scope:
                request._json = request.scope[PARSED_JSON]  # noqa: SLF001 - where Starlette keeps it
            return await handler(request)

        return handle
