"""The ASGI application of a chute.

Its middleware, from the outside in: CORS, access log, origin check, authentication, admission. The same application
runs under `chutes run` and in a replica of a cluster.
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
from chutes.server.origin import OriginMiddleware, OriginPolicy
from chutes.server.settings import Settings


class Runtime:
    """The ASGI application of one chute. The process around it uses `lifecycle`, `admission` and `jobs`.

    With `check_origins`, requests with an ambiguous host are rejected. On a loopback address where no API key is
    required, requests from web pages of other sites are rejected too. On a cluster, the proxy checks this instead.
    """

    def __init__(self, chute: Chute, settings: Settings, *, check_origins: bool = False) -> None:
        self.chute = chute
        self.settings = settings
        self.admission = Admission(chute.concurrency, settings.queue_size)
        self.lifecycle = Lifecycle(chute, self.admission)
        self.jobs = jobs.JobManager(
            chute, self.admission, kept=settings.jobs_kept, max_result_bytes=settings.max_job_result_bytes
        )
        metrics.bind_gauges(chute.uid, self.admission, lambda: self.lifecycle.state is State.READY)
        errors.install(chute)
        self._cords = CordMiddleware(chute, self._runtime_routes(), self.lifecycle, self.admission, settings)
        self._auth = AuthMiddleware(self._cords, settings)
        author_cors = cors.take_middleware(chute)
        policy = OriginPolicy(settings, cors.explicit_origins(author_cors))
        cord_paths = tuple(cord.route_path for cord in chute.cords)
        inner = OriginMiddleware(self._auth, policy, cord_paths, self._is_open) if check_origins else self._auth
        self._app = cors.wrap(AccessLogMiddleware(inner), author_cors or cors.from_origins(settings.cors_origins))

    def _is_open(self) -> bool:
        return self.settings.is_loopback and not self._auth.required

    def _runtime_routes(self) -> ASGIApp:
        """Return the server's own routes in front of the chute's."""
        server_app = FastAPI(openapi_url=None)
        errors.install(server_app)
        # `include_router` would compile the paths again, and they would match before a newline (see ChuteRoute).
        server_app.router.routes.extend(runtime_routes.router(self.chute, self.lifecycle, self.admission).routes)
        if self.chute.jobs:
            server_app.router.routes.extend(jobs.router(self.jobs, self.lifecycle).routes)
        return runtime_routes.RuntimeRoutes(server_app, self.chute, self.lifecycle)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Load the chute in the background, so that the server can open its port."""
        await receive()
        self.lifecycle.start()
        self.jobs.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.jobs.close()
        await self.lifecycle.close()
        await send({"type": "lifespan.shutdown.complete"})

    def drain(self) -> None:
        """Accept no more requests. Running ones continue; queued ones and incomplete uploads get 503."""
        self.lifecycle.drain()
        self._cords.uploads.close(Draining(headers={"Connection": "close"}))

    def abort_all(self) -> None:
        """Abort all running requests and jobs."""
        self._cords.abort_all()
        self.jobs.abort_all()


def create_app(chute: Chute, settings: Settings | None = None) -> Runtime:
    """Return the ASGI application of a chute. Its startup hooks run when the ASGI lifespan starts."""
    return Runtime(chute, settings or Settings())
