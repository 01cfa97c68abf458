"""A replica: the chute's ASGI application, the same as under `chutes run`, in a process that Ray Serve manages.

The replica loads the chute in its own process from the packed files. Ray Serve sends it requests only after the startup
hooks have finished. A replica whose startup hooks raise gets no requests.
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
from chutes.server.lifecycle import ExitCode, State, simple_info
from chutes.server.runtime_routes import chute_probes

log = logging.getLogger(__name__)

REPLICA_HEADER = b"x-chutes-replica"
"""The header of a replica's responses, which distinguishes them from Ray's own responses."""

BY_HOST_HEADER = b"x-chutes-by-host"
"""The header that the proxy adds to a request that names the chute in its host name instead of its path."""

_ABORT_TIMEOUT = 2.0  # seconds for running requests to respond after a fatal error or an abort


@dataclass(frozen=True)
class ReplicaConfig:
    """The data from which a replica loads its chute.

    Attributes:
        slug: The chute's slug.
        entry: The reference to the chute in the packed files, `module:name`.
        content: The packed files.
        environment: Environment variables to set.
        settings: Server settings, which win over the environment.
    """

    slug: str
    entry: str
    content: bytes
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


class LoadFailed(Exception):
    """The chute failed to load. The message is one line."""


class Replica:
    """A Ray actor that loads a chute. Ray Serve creates, checks and stops one for each replica."""

    def __init__(self, config: ReplicaConfig) -> None:
        os.environ.update(config.environment)
        os.environ.setdefault("CHUTES_EXECUTION_CONTEXT", "REMOTE")
        self.id = _replica_id()
        self._config = config
        self._settings = Settings(**config.settings)
        log_to_file(config.slug, self.id, self._settings.log_level)

    async def __serve_build_asgi_app__(self) -> "ReplicaApp":
        """Load the chute and return the application for its requests. Raise LoadFailed if it does not load."""
        try:
            unpack(self._config.content)
            self.runtime = create_app(load_chute(self._config.entry), self._settings)
        except LoadError as error:
            log.error("Startup failed: %s", error)  # noqa: TRY400 - one clear line
            raise LoadFailed(str(error)) from None
        await self._start()
        return ReplicaApp(self.runtime, self.id)

    async def _start(self) -> None:
        """Run the startup hooks. They report their progress in the log."""
        lifecycle = self.runtime.lifecycle
        lifecycle.start()
        self.runtime.jobs.start()
        assert lifecycle.exit_code is not None  # noqa: S101 - `start` has just set it
        ready = asyncio.ensure_future(lifecycle.ready.wait())
        events: set[asyncio.Future[Any]] = {ready, lifecycle.exit_code}
        await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
        if lifecycle.state is State.FAILED:
            ready.cancel()
            raise LoadFailed(lifecycle.failure)

    def check_health(self) -> None:
        """Raise if the chute has failed, which makes Ray Serve replace this replica."""
        if self.runtime.lifecycle.state is State.FAILED:
            raise LoadFailed("The chute has failed and must be restarted.")

    async def record_routing_stats(self) -> dict[str, Any]:
        """Return the state, load, GPUs and metrics of this replica.

        Ray Serve calls this method for its router. Probes and statistics call it too: it is the only method whose
        result Ray Serve returns unchanged to any caller of the actor.
        """
        chute, admission = self.runtime.chute, self.runtime.admission
        text = await asyncio.to_thread(metrics.exposition)
        return {
            "state": str(self.runtime.lifecycle.state),
            "running": admission.running,
            "queued": admission.queued,
            "concurrency": admission.concurrency,
            "info": simple_info(chute),
            "chute_probes": sorted(chute_probes(chute)),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "metrics": text.decode(),
        }


class ReplicaApp:
    """An ASGI application that serves the chute below its slug, or at its own host name."""

    def __init__(self, runtime: Runtime, replica_id: str) -> None:
        self._runtime = runtime
        self._id = replica_id.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Its path becomes the one that it would have under `chutes run`."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REPLICA_HEADER, self._id)]
            await send(message)

        await self._runtime(_without_root(scope), receive, send_with_header)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Watch the loaded chute until Ray Serve ends the lifespan, then drain its requests and jobs and close it."""
        runtime = self._runtime
        await receive()
        watch = asyncio.create_task(_exit_with_chute(runtime))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        watch.cancel()
        # Ray Serve has waited for the requests, but not for the jobs.
        runtime.lifecycle.drain()
        idle = runtime.admission.wait_idle
        try:
            await asyncio.wait_for(idle(), runtime.settings.drain_grace)
        except TimeoutError:
            runtime.abort_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(idle(), _ABORT_TIMEOUT)
        await runtime.jobs.close()
        await runtime.lifecycle.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _exit_with_chute(runtime: Runtime) -> None:
    """Exit the process when the chute has failed for good, so that Ray Serve starts another replica."""
    if runtime.lifecycle.exit_code is None:
        return
    code = await runtime.lifecycle.exit_code
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ABORT_TIMEOUT):
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
