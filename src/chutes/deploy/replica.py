"""What runs inside a replica: the chute's own ASGI application, the same as under `chutes run`.

Ray Serve builds it here, in the replica's process, from a description that any process can read. Until the startup
hooks are done the replica is not there for anybody; one whose hooks raise never is.
"""

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from chutes.deploy.log_files import log_to_file
from chutes.deploy.package import unpack
from chutes.exception import LoadError
from chutes.loader import load_chute
from chutes.server import Runtime, Settings, create_app, metrics
from chutes.server.lifecycle import ExitCode, State
from chutes.server.paths import PROBES
from chutes.server.runtime_routes import route_paths

log = logging.getLogger(__name__)

REPLICA_HEADER = b"x-chutes-replica"  # on whatever a replica answers: the proxy knows its own answers by its absence
BY_HOST_HEADER = b"x-chutes-by-host"  # set by the proxy when the host name, and not the path, named the chute

_LAST_WORDS = 2.0  # seconds for running requests to answer after the chute said that it cannot go on


@dataclass(frozen=True)
class Description:
    """What a replica is made from."""

    slug: str
    entry: str
    content: bytes
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


class LoadFailed(Exception):
    """The chute could not be loaded: one line that says why."""


class Replica:
    """One copy of a chute in the cluster. Ray Serve makes it, asks after its health, and ends it."""

    def __init__(self, description: Description) -> None:
        os.environ.update(description.environment)
        os.environ.setdefault("CHUTES_EXECUTION_CONTEXT", "REMOTE")
        self.id = _replica_id()
        self._description = description
        self._settings = Settings(**description.settings)
        log_to_file(description.slug, self.id, self._settings.log_level)

    async def __serve_build_asgi_app__(self) -> "ReplicaApp":
        """The application that requests go to, once it is loaded. LoadFailed."""
        try:
            unpack(self._description.content)
            self.runtime = create_app(load_chute(self._description.entry), self._settings)
        except LoadError as error:
            log.error("Startup failed: %s", error)  # noqa: TRY400 - one clear line
            raise LoadFailed(str(error)) from None
        await self._become_ready()
        return ReplicaApp(self.runtime, self.id)

    async def _become_ready(self) -> None:
        """Run the startup hooks; how far they are is in the log."""
        lifecycle = self.runtime.lifecycle
        lifecycle.start()
        self.runtime.jobs.start()
        assert lifecycle.exit_code is not None  # noqa: S101 - `start` has just set it
        ready = asyncio.ensure_future(lifecycle.ready.wait())
        either: set[asyncio.Future[Any]] = {ready, lifecycle.exit_code}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if lifecycle.state is State.FAILED:
            ready.cancel()
            raise LoadFailed(lifecycle.failure)

    def check_health(self) -> None:
        """Ray Serve calls this; raising asks for a new replica."""
        if self.runtime.lifecycle.state is State.FAILED:
            raise LoadFailed("The chute cannot go on")

    async def record_routing_stats(self) -> dict[str, Any]:
        """How this replica is, for whoever asks its actor: the one question that Ray Serve passes on as it stands."""
        chute, admission = self.runtime.chute, self.runtime.admission
        text = await asyncio.to_thread(metrics.exposition)
        return {
            "state": str(self.runtime.lifecycle.state),
            "running": admission.running,
            "queued": admission.queued,
            "concurrency": admission.concurrency,
            "info": {key: value for key, value in chute.info.items() if isinstance(value, (str, int, float, bool))},
            "own_probes": sorted(PROBES & route_paths(chute, verb="GET")),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "metrics": text.decode(),
        }


class ReplicaApp:
    """ASGI: the chute below the path, or at the host name, that it has in the cluster."""

    def __init__(self, runtime: Runtime, replica_id: str) -> None:
        self._runtime = runtime
        self._id = replica_id.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, its path made what it would be without a cluster."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REPLICA_HEADER, self._id)]
            await send(message)

        await self._runtime(_without_root(scope), receive, send_marked)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Ray Serve begins it when the chute has been loaded already, and ends it when the requests are drained."""
        runtime = self._runtime
        await receive()
        watch = asyncio.create_task(_end_with_the_chute(runtime))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watch.cancel()
        # Ray has waited for the requests; jobs are none to it.
        runtime.lifecycle.drain()
        idle = runtime.admission.wait_idle
        try:
            await asyncio.wait_for(idle(), runtime.settings.drain_grace)
        except TimeoutError:
            runtime.abort_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(idle(), _LAST_WORDS)
        await runtime.jobs.close()
        await runtime.lifecycle.close(within=runtime.settings.drain_grace)
        await send({"type": "lifespan.shutdown.complete"})


async def _end_with_the_chute(runtime: Runtime) -> None:
    """A chute that cannot go on takes its process along; Ray Serve starts another."""
    if runtime.lifecycle.exit_code is None:
        return
    code = await runtime.lifecycle.exit_code
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS):
            await runtime.admission.wait_idle()
    logging.shutdown()
    os._exit(int(code or ExitCode.FATAL))


def _without_root(scope: Scope) -> Scope:
    root, path = scope.get("root_path", ""), scope["path"]
    if root and path.startswith(root):
        path = path[len(root) :] or "/"
    by_host = any(name == BY_HOST_HEADER for name, _ in scope["headers"])
    return {**scope, "path": path, "root_path": "" if by_host else root}


def _replica_id() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)
