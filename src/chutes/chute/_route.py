"""A cord's route: FastAPI's, with a clear answer to JSON that isn't declared as such."""

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response, params
from fastapi.routing import APIRoute


class CordRoute(APIRoute):
    """Answers 415 where FastAPI would go on without the body: with defaults, or complaining of missing fields.

    A body without `Content-Type: application/json` isn't read as JSON, on purpose: any web page can make a browser
    send one to a server on the same machine without asking it first.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Starlette's ends with `$`, which also matches before a newline: but `/draw%0A` is another path than `/draw`.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind a look at the content type."""
        handler = super().get_route_handler()
        wants_json = self.body_field is not None and not isinstance(self.body_field.field_info, params.Form)

        async def handle(request: Request) -> Response:
            if wants_json and not _is_json(request) and await request.body():
                raise HTTPException(415, "Send the body as JSON, with Content-Type: application/json")
            return await handler(request)

        return handle


def _is_json(request: Request) -> bool:
    subtype = request.headers.get("content-type", "").partition(";")[0].strip().lower().rpartition("/")[2]
    return subtype == "json" or subtype.endswith("+json")
