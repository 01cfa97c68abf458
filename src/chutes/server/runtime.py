"""A chute as one ASGI application, from the outside in: CORS, access log, guard, auth, admission, the chute's routes.

The same application runs under `chutes run` and inside a replica on a cluster.
"""

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from chutes.chute import Chute
from chutes.exception import Draining
from chutes.server import cors, errors, jobs, metrics, runtime_routes
from chutes.server.access_log import AccessLogMiddleware
from chutes.server.admission import Admission
from chutes.server.auth import AuthMiddleware
from chutes.server.cord_middleware import CordMiddleware
from chutes.server.lifecycle import Lifecycle, State
from chutes.server.origin import OriginMiddleware, OriginPolicy, Violation
from chutes.server.settings import Settings


class Runtime:
    """The ASGI application around one chute. `lifecycle`, `admission` and `jobs` are for whoever runs the process.

    `guarded`: it is served to clients directly, so that ambiguous hosts are refused, and, on a loopback address and
    while no API key is demanded, the web pages of other sites.
    """

    def __init__(self, chute: Chute, settings: Settings, *, guarded: bool = False) -> None:
        self.chute = chute
        self.settings = settings
        self.admission = Admission(chute.concurrency, settings.queue_size)
        self.lifecycle = Lifecycle(chute, self.admission)
        self.jobs = jobs.JobManager(
            chute, self.admission, kept=settings.jobs_kept, max_result_bytes=settings.max_job_result_bytes
        )
        metrics.observe(chute.uid, self.admission, lambda: self.lifecycle.state is State.READY)
        errors.install(chute)
        self._cords = CordMiddleware(chute, self._services(), self.lifecycle, self.admission, settings)
        self._auth = AuthMiddleware(self._cords, settings)
        author_cors = cors.take_middleware(chute)
        policy = OriginPolicy(settings, cors.explicit_origins(author_cors))
        inner = OriginMiddleware(self._auth, policy, self._tolerates) if guarded else self._auth
        self._app = cors.wrap(AccessLogMiddleware(inner), author_cors or cors.from_origins(settings.cors_origins))

    async def _tolerates(self, scope: Scope, violation: Violation) -> bool:
        """Return whether a request may pass in spite of its origin: a key is demanded, or a link opens a page."""
        if not self.settings.is_loopback or self._auth.required:
            return True
        return violation.page_load and not any(scope["path"].endswith(cord.route_path) for cord in self.chute.cords)

    def _services(self) -> ASGIApp:
        """The runtime's own routes in front of the chute's."""
        service = FastAPI(openapi_url=None)
        errors.install(service)
        # `include_router` would compile the paths anew, and they would match before a newline again.
        service.router.routes.extend(runtime_routes.router(self.chute, self.lifecycle, self.admission).routes)
        if self.chute.jobs:
            service.router.routes.extend(jobs.router(self.jobs, self.lifecycle).routes)
        return runtime_routes.RuntimeRoutes(service, self.chute, self.lifecycle)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the whole life of the application."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Start to load, and let the server open its port meanwhile."""
        await receive()
        self.lifecycle.start()
        self.jobs.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.jobs.close()
        await self.lifecycle.close()
        await send({"type": "lifespan.shutdown.complete"})

    def drain(self) -> None:
        """Take no more requests: those that run go on, those that wait or still send their body get 503."""
        self.lifecycle.drain()
        self._cords.uploads.close(Draining(headers={"Connection": "close"}))

    def abort_all(self) -> None:
        """Cancel every request and job that still runs."""
        self._cords.abort_all()
        self.jobs.abort_all()


def create_app(chute: Chute, settings: Settings | None = None) -> Runtime:
    """The ASGI application that serves a chute; its startup hooks begin to run with the ASGI lifespan."""
    return Runtime(chute, settings or Settings())
