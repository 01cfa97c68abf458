"""The cords of a chute and the routes they have in FastAPI's router.

A route exists from the moment its function is decorated. A handler whose annotations name something that its module
defines further down gets its place in the router at once, and its route when it is first needed.
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
from chutes.chute._routing.route import CordRoute
from chutes.chute.cord import Cord
from chutes.exception import DuplicatePath

_Names = Mapping[str, Any]


class Routes:
    """Adds cords to a router; `cords` are those that are served."""

    def __init__(self, router: APIRouter) -> None:
        self.cords: list[Cord] = []
        self._router = router
        self._routes: dict[int, BaseRoute] = {}
        self._unresolved: list[tuple[Cord, _Names]] = []

    def add(self, cord: Cord, names: _Names) -> None:
        """Serve a cord; `names` are those around its handler.

        The one before it at the same path and verb is replaced, with a warning. DuplicatePath when a cord that is
        served elsewhere has the same internal path.
        """
        shared = self._make_room(cord)
        self.cords.append(cord)
        if shared is not None:
            self._routes[id(cord)] = shared
            return
        try:
            self._routes[id(cord)] = self._install(cord, names)
        except UnresolvedError:
            placeholder = Route(cord.route_path, _unresolved, methods=list(cord.route_methods))
            self._router.routes.append(placeholder)
            self._routes[id(cord)] = placeholder
            self._unresolved.append((cord, names))

    def resolve(self) -> None:
        """Give those that waited for a name their routes; TypeError that says which name is missing."""
        while self._unresolved:
            cord, names = self._unresolved[0]
            try:
                route = self._install(cord, names)
            except UnresolvedError as error:
                raise TypeError(f"Cord {cord.name!r}: {error}") from None
            self._router.routes.remove(route)
            place = self._router.routes.index(self._routes[id(cord)])
            self._router.routes[place] = route
            self._routes[id(cord)] = route
            del self._unresolved[0]

    def _make_room(self, cord: Cord) -> BaseRoute | None:
        """Take away what the new cord replaces. Two that pass on to one upstream share a route, which is returned."""
        for other in list(self.cords):
            if other.route_path == cord.route_path and other.route_methods & cord.route_methods:
                if other.passthrough and cord.passthrough and other.upstream == cord.upstream:
                    return self._routes[id(other)]
                verbs = "/".join(sorted(cord.route_methods))
                warn(f"{verbs} {cord.route_path} was served by cord {other.name!r}; {cord.name!r} replaces it")
                self._remove(other)
            elif other.path == cord.path:
                raise DuplicatePath(
                    f"Cord {other.name!r}, served at {other.route_path}, has the internal path {cord.path} already: "
                    "give one of the two another path="
                )
        for route in list(self._router.routes):
            if (
                isinstance(route, Route)
                and route.path == cord.route_path
                and cord.route_methods & (route.methods or set())
            ):
                if isinstance(route, APIRoute):  # the others are FastAPI's own pages, which simply make room
                    warn(f"{route.path} was served by {route.name!r}; cord {cord.name!r} replaces it")
                self._router.routes.remove(route)
        return None

    def _remove(self, cord: Cord) -> None:
        self.cords.remove(cord)
        self._unresolved = [(waiting, names) for waiting, names in self._unresolved if waiting is not cord]
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
                route_class_override=CordRoute,
                **describe(cord),
            )
        except UnresolvedError:
            raise
        except Exception as error:
            raise TypeError(f"Cord {cord.name!r} cannot be served: {error}") from error
        route = self._router.routes[-1]
        if isinstance(route, CordRoute):
            cord.body_kind = route.body_kind
        return route


async def _unresolved(_: object) -> Response:
    raise AssertionError("every request resolves the routes first")
