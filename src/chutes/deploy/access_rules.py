"""The access rules of each chute: its API keys, CORS options and allowed origins, as the proxy applies them.

Replicas check API keys and add CORS headers themselves. The proxy applies the same rules to what it answers itself:
CORS preflights, which must not wait in the queue, requests from foreign web pages, and errors.
"""

import asyncio
import logging
import time

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

from chutes.deploy import registry
from chutes.deploy.application import Spec
from chutes.server import Settings, cors
from chutes.server.auth import AuthMiddleware
from chutes.server.origin import OriginPolicy, Violation
from chutes.server.settings import settings_from_environment

log = logging.getLogger(__name__)

_CACHE_SECONDS = 1.0  # as long as a replica may take to notice its first API key


class AccessRules:
    """The access rules of one chute. Without a Spec, they come from the proxy's own environment.

    The attribute `app` is the given application, wrapped in the chute's CORS middleware.
    """

    def __init__(self, app: ASGIApp, spec: Spec | None = None) -> None:
        given = {**settings_from_environment(spec.environment), **spec.settings} if spec else {}
        settings = Settings(**given)
        author_cors = Middleware(CORSMiddleware, **spec.cors) if spec and spec.cors else None
        self.app = cors.wrap(app, author_cors or cors.from_origins(settings.cors_origins))
        self._auth = AuthMiddleware(app, settings)
        self._policy = OriginPolicy(settings, cors.explicit_origins(author_cors))
        self._cord_paths = tuple(cord["path"] for cord in spec.cords) if spec else ()

    def find_violation(self, scope: Scope) -> Violation | None:
        """Return why a proxy on a loopback address rejects a request, or None."""
        violation = self._policy.find_violation(scope)
        if violation and violation.is_rejected(scope["path"], self._cord_paths, is_open=not self._auth.required):
            return violation
        return None


class AccessRulesCache:
    """The access rules of all deployed chutes, cached for a second."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._rules: dict[str, tuple[float, AccessRules]] = {}

    async def find(self, slug: str) -> AccessRules:
        """Return the rules of a chute, at most a second old."""
        read_at, rules = self._rules.get(slug, (0.0, None))
        if rules is None or time.monotonic() - read_at > _CACHE_SECONDS:
            rules = await asyncio.to_thread(self._read, slug)
            self._rules[slug] = time.monotonic(), rules
        return rules

    def _read(self, slug: str) -> AccessRules:
        spec = None
        try:
            spec = registry.load_spec(slug) if slug else None
        except Exception:
            log.exception("Cannot read the settings of %s, so those of the proxy apply", slug)
        return AccessRules(self._app, spec)
