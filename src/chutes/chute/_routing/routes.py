"""The cords of a chute, and their routes in FastAPI's router.

A cord gets its route when its function is decorated. If an annotation refers to a name that the module defines later, a
placeholder keeps the route's position until `resolve` replaces it.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chutes._warn import warn
from chutes.chute._handler.media import BodyKind
from chutes.chute._handler.signature import UnresolvedError
from chutes.chute._routing.openapi import describe
from chutes.chute._routing.route import BodyCheckRoute
from chutes.chute.cord import Cord
from chutes.exception import DuplicatePath

_Names = Mapping[str, Any]


class Routes:
    """The registered cords, and their routes in a router."""

    def __init__(self, router: APIRouter) -> None:
        self._router = router
        self._routes: dict[Cord, BaseRoute] = {}
        self._unresolved: dict[Cord, _Names] = {}

    @property
    def cords(self) -> list[Cord]:
        """The registered cords, in the order of definition."""
        return list(self._routes)

    def body_kind(self, cord: Cord) -> BodyKind | None:
        """Return how the route of a cord parses the body; None if no parameter takes it."""
        route = self._routes[cord]
        return route.body_kind if isinstance(route, BodyCheckRoute) else None

    def add(self, cord: Cord, names: _Names) -> None:
        """Register a cord. It replaces, with a warning, a cord or route at the same path and method.

        Args:
            cord: The cord.
            names: The local names where the handler is defined, which its annotations may use.

        Raises:
            DuplicatePath: A cord with another public path has the same internal path.
            TypeError: FastAPI does not accept the handler.
        """
        route = self._remove_conflicts(cord)
        if route is None:
            try:
                route = self._make_route(cord, names)
            except UnresolvedError:
                route = Route(cord.route_path, _placeholder, methods=list(cord.route_methods))
                self._unresolved[cord] = names
            self._router.routes.append(route)
        self._routes[cord] = route

    def resolve(self) -> None:
        """Replace the placeholders by routes. Raise TypeError if an annotation still cannot be resolved."""
        for cord, names in list(self._unresolved.items()):
            try:
                route = self._make_route(cord, names)
            except UnresolvedError as error:
                raise TypeError(f"Cord {cord.name!r}: {error}. Define or import it in the handler's module.") from None
            position = self._router.routes.index(self._routes[cord])
            self._router.routes[position] = route
            self._routes[cord] = route
            del self._unresolved[cord]

    def _remove_conflicts(self, cord: Cord) -> BaseRoute | None:
        """Remove the cords and routes that a new cord replaces.

        If a passthrough cord at the same path has the same upstream, remove nothing, and return the route to share.
        """
        for other in self.cords:
            if other.route_path == cord.route_path and other.route_methods & cord.route_methods:
                if other.passthrough and cord.passthrough and other.upstream_url == cord.upstream_url:
                    return self._routes[other]
                methods = "/".join(sorted(cord.route_methods))
                warn(f"Cord {cord.name!r} replaces cord {other.name!r} at {methods} {cord.route_path}.")
                self._remove(other)
            elif other.path == cord.path:
                raise DuplicatePath(
                    f"Cord {cord.name!r} has the same internal path {cord.path} as cord {other.name!r}, "
                    f"which is served at {other.route_path}. Give one of them another path=."
                )
        for route in list(self._router.routes):
            if (
                isinstance(route, Route)
                and route.path == cord.route_path
                and cord.route_methods & (route.methods or set())
            ):
                if isinstance(route, APIRoute):  # other routes are FastAPI's documentation pages
                    warn(f"Cord {cord.name!r} replaces route {route.name!r} at {route.path}.")
                self._router.routes.remove(route)
        return None

    def _remove(self, cord: Cord) -> None:
        self._unresolved.pop(cord, None)
        route = self._routes.pop(cord)
        if route in self._router.routes and route not in self._routes.values():
            self._router.routes.remove(route)

    def _make_route(self, cord: Cord, names: _Names) -> BaseRoute:
        """Return a route with the router's options, but do not leave it in the router."""
        try:
            endpoint = cord.endpoint(names)
            self._router.add_api_route(
                cord.route_path,
                endpoint.function,
                methods=list(cord.route_methods),
                name=cord.name,
                response_class=Response,
                response_model=None,
                route_class_override=BodyCheckRoute,
                **describe(cord, endpoint),
            )
        except UnresolvedError:
            raise
        except Exception as error:
            raise TypeError(f"Cord {cord.name!r} cannot be served: {error}") from error
        return self._router.routes.pop()


async def _placeholder(_: object) -> Response:
    raise AssertionError("A chute resolves its routes before it handles a request.")
