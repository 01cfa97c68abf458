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
from chutes.chute._handler.signature import UnresolvedError
from chutes.chute._routing.openapi import describe
from chutes.chute._routing.route import BodyCheckRoute
from chutes.chute.cord import Cord
from chutes.exception import DuplicatePath

_Names = Mapping[str, Any]


class Routes:
    """The registered cords, and their routes in a router."""

    def __init__(self, router: APIRouter) -> None:
        self.cords: list[Cord] = []
        self._router = router
        self._routes: dict[int, BaseRoute] = {}
        self._unresolved: list[tuple[Cord, _Names]] = []

    def add(self, cord: Cord, names: _Names) -> None:
        """Register a cord. It replaces, with a warning, a cord or route at the same path and method.

        Args:
            cord: The cord.
            names: The local names where the handler is defined, which its annotations may use.

        Raises:
            DuplicatePath: A cord with another public path has the same internal path.
            TypeError: FastAPI does not accept the handler.
        """
        shared_route = self._remove_conflicts(cord)
        self.cords.append(cord)
        if shared_route is not None:
            self._routes[id(cord)] = shared_route
            return
        try:
            self._routes[id(cord)] = self._install(cord, names)
        except UnresolvedError:
            placeholder = Route(cord.route_path, _placeholder, methods=list(cord.route_methods))
            self._router.routes.append(placeholder)
            self._routes[id(cord)] = placeholder
            self._unresolved.append((cord, names))

    def resolve(self) -> None:
        """Replace the placeholders by routes. Raise TypeError if an annotation still cannot be resolved."""
        while self._unresolved:
            cord, names = self._unresolved[0]
            try:
                route = self._install(cord, names)
            except UnresolvedError as error:
                raise TypeError(f"Cord {cord.name!r}: {error}. Define or import it in the handler's module.") from None
            self._router.routes.remove(route)
            position = self._router.routes.index(self._routes[id(cord)])
            self._router.routes[position] = route
            self._routes[id(cord)] = route
            del self._unresolved[0]

    def _remove_conflicts(self, cord: Cord) -> BaseRoute | None:
        """Remove the cords and routes that a new cord replaces.

        If a passthrough cord at the same path has the same upstream, remove nothing, and return the route to share.
        """
        for other in list(self.cords):
            if other.route_path == cord.route_path and other.route_methods & cord.route_methods:
                if other.passthrough and cord.passthrough and other.upstream == cord.upstream:
                    return self._routes[id(other)]
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
        self.cords.remove(cord)
        self._unresolved = [(other, names) for other, names in self._unresolved if other is not cord]
        route = self._routes.pop(id(cord))
        if route in self._router.routes and route not in self._routes.values():
            self._router.routes.remove(route)

    def _install(self, cord: Cord, names: _Names) -> BaseRoute:
        try:
            endpoint = cord.endpoint(names)
            self._router.add_api_route(
                cord.route_path,
                endpoint,
                methods=list(cord.route_methods),
                name=cord.name,
                response_class=Response,
                response_model=None,
                route_class_override=BodyCheckRoute,
                **describe(cord),
            )
        except UnresolvedError:
            raise
        except Exception as error:
            raise TypeError(f"Cord {cord.name!r} cannot be served: {error}") from error
        route = self._router.routes[-1]
        if isinstance(route, BodyCheckRoute):
            cord.body_kind = route.body_kind
        return route


async def _placeholder(_: object) -> Response:
    raise AssertionError("A chute resolves its routes before it handles a request.")
