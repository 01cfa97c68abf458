"""A chute: a FastAPI application whose routes are an author's decorated functions."""

import asyncio
import inspect
import logging
import re
import sys
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from chutes._warn import warn
from chutes.chute import _options
from chutes.chute._loop.hooks import Hook, by_priority, check_parentheses, make_hook
from chutes.chute._loop.user_loop import UserLoop
from chutes.chute._progress import Progress
from chutes.chute._routing.route import ChuteRoute
from chutes.chute._routing.routes import Routes
from chutes.chute.cord import Cord, Function
from chutes.chute.job import Job
from chutes.chute.node_selector import NodeSelector
from chutes.exception import ChutesError
from chutes.image import Image
from chutes.util.context import is_remote

__all__ = ["Chute", "ChutePack", "is_remote"]

log = logging.getLogger(__name__)

_SLUG_LENGTH = 58  # of a label in a host name, with room for a suffix


class Chute(FastAPI):
    """A service: what it needs (image, GPUs), what it loads (startup hooks), what it answers (cords).

    - `concurrency`: how many requests run at once, and how many threads plain `def` handlers have.
    - `max_instances` (`max_replicas`), `min_replicas`: how many copies a cluster may and must run.
    - `scaling_threshold`: the utilisation, 0 to 1, above which there is one more; `scale_up_threshold`: the same by
      the number of requests that wait.
    - `shutdown_after_seconds` (`scale_down_delay`): for how long a copy is idle before it goes.
    - `passthrough_headers`: what passthrough cords send to their upstream.

    FastAPI's own keyword arguments are passed on; unknown ones are kept in `extra` and warned of.
    """

    def __init__(
        self,
        username: str,
        name: str,
        image: Image | str,
        tagline: str = "",
        readme: str = "",
        standard_template: str | None = None,
        revision: str | None = None,
        node_selector: NodeSelector | None = None,
        concurrency: int = 1,
        max_instances: int = 1,
        shutdown_after_seconds: int = 300,
        scaling_threshold: float = 0.75,
        allow_external_egress: bool = False,
        encrypted_fs: bool = False,
        passthrough_headers: Mapping[str, str] | None = None,
        tee: bool = False,
        lock_modules: bool | None = None,
        *,
        min_replicas: int = 1,
        scale_up_threshold: float | None = None,
        **kwargs: Any,
    ) -> None:
        settings: dict[str, Any] = {
            "max_instances": max_instances,
            "min_replicas": min_replicas,
            "scaling_threshold": scaling_threshold,
            "scale_up_threshold": scale_up_threshold,
            "shutdown_after_seconds": shutdown_after_seconds,
        }
        if not name:
            raise ValueError("name= is empty: a chute goes by it")
        parameters = inspect.signature(Chute.__init__).parameters
        _options.take_aliases(kwargs, settings, {key: parameters[key].default for key in settings})
        fastapis, extra = _options.split(kwargs, parameters.keys() - {"self", "kwargs"})
        super().__init__(**{"title": name, "summary": tagline or None, "description": readme, **fastapis})
        self.extra = extra

        self._username = username
        self._name = name
        self._image = image
        self._tagline = tagline
        self._readme = readme
        self._standard_template = standard_template
        self._node_selector = node_selector
        self._uid = str(uuid5(NAMESPACE_OID, f"{username}::chute::{name}"))
        self.revision = revision
        self.concurrency = concurrency
        self.max_instances: int = settings["max_instances"]
        self.min_replicas: int = settings["min_replicas"]
        self.scaling_threshold: float = settings["scaling_threshold"]
        self.scale_up_threshold: float | None = settings["scale_up_threshold"]
        self.shutdown_after_seconds: int = settings["shutdown_after_seconds"]
        self.allow_external_egress = allow_external_egress
        self.encrypted_fs = encrypted_fs
        self.passthrough_headers = dict(passthrough_headers or {})
        self.tee = tee
        self.lock_modules = lock_modules

        self.progress = Progress()
        self.info: dict[str, object] = {}
        self.failure: str | None = None
        self.lifecycle_managed = False
        self.router.route_class = ChuteRoute
        self._cords = Routes(self.router)
        self._jobs: list[Job] = []
        self._startup_hooks: list[Hook] = []
        self._shutdown_hooks: list[Hook] = []
        self._on_fail: Callable[[str], object] = lambda reason: None
        self._executor = UserLoop(concurrency, self._on_fatal)
        self._initialized = False
        self.router.lifespan_context = self._with_hooks(self.router.lifespan_context)

    @property
    def username(self) -> str:
        """Whose it is."""
        return self._username

    @property
    def name(self) -> str:
        """What it is called."""
        return self._name

    @property
    def tagline(self) -> str:
        """What it is, in a line."""
        return self._tagline

    @property
    def readme(self) -> str:
        """What it is, in Markdown."""
        return self._readme

    @property
    def uid(self) -> str:
        """The same id for the same user and name, everywhere."""
        return self._uid

    @property
    def slug(self) -> str:
        """User and name as one label of a host name."""
        text = unicodedata.normalize("NFKD", f"{self._username}-{self._name}").encode("ascii", "ignore").decode()
        return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_SLUG_LENGTH].rstrip("-")

    @property
    def image(self) -> Image | str:
        """The container image it runs in: how to build it, or its name."""
        return self._image

    @property
    def node_selector(self) -> NodeSelector | None:
        """Which machines it may run on."""
        return self._node_selector

    @property
    def standard_template(self) -> str | None:
        """The template it was made from."""
        return self._standard_template

    @property
    def cords(self) -> list[Cord]:
        """What it answers."""
        return self._cords.cords

    @property
    def jobs(self) -> list[Job]:
        """What it runs in the background."""
        return self._jobs

    @property
    def max_replicas(self) -> int:
        """The same as `max_instances`."""
        return self.max_instances

    @property
    def scale_down_delay(self) -> int:
        """The same as `shutdown_after_seconds`."""
        return self.shutdown_after_seconds

    @property
    def executor(self) -> UserLoop:
        """The event loop and the threads that the author's code runs on."""
        return self._executor

    # What an author decorates with.

    def cord(self, func: object = None, /, **options: Any) -> Cord:
        """Serve the function below over HTTP; the options are those of `Cord`."""
        check_parentheses("cord", func, 'public_api_path="/..."')
        return Cord(self, **options)

    def job(self, func: object = None, /, **options: Any) -> Job:
        """Run the function below in the background when asked to; the options are those of `Job`."""
        check_parentheses("job", func)
        return Job(self, **options)

    def on_startup(self, priority: int = 50) -> Callable[[Function], Function]:
        """Run the function below before the first request; lower priorities run first."""
        check_parentheses("on_startup", priority)
        return self._collect(self._startup_hooks, priority)

    def on_shutdown(self, priority: int = 50) -> Callable[[Function], Function]:
        """Run the function below after the last request; lower priorities run first."""
        check_parentheses("on_shutdown", priority)
        return self._collect(self._shutdown_hooks, priority)

    def _collect(self, hooks: list[Hook], priority: int) -> Callable[[Function], Function]:
        def decorate(func: Function) -> Function:
            hooks.append((priority, make_hook(func, self)))
            return func

        return decorate

    def add_cord(self, cord: Cord) -> None:
        """Serve this cord; one that is served at the same path under the same verb is replaced, with a warning."""
        # Names of the function that the handler is defined in, for annotations that mean them.
        frame = sys._getframe(2)  # noqa: SLF001 - the one way to see them
        self._cords.add(cord, {} if frame.f_locals is frame.f_globals else dict(frame.f_locals))
        self.openapi_schema = None

    def add_job(self, job: Job) -> None:
        """Offer this job, in place of one of the same name."""
        if any(other.name == job.name for other in self._jobs):
            warn(f"Job {job.name!r} replaces the one before it of the same name")
        self._jobs = [other for other in self._jobs if other.name != job.name] + [job]

    # Its life.

    async def initialize(self) -> None:
        """Run the startup hooks, on the author's loop; nothing happens the second time."""
        if self._initialized:
            return
        self._cords.resolve()
        self._executor.threads = max(1, self.concurrency)
        self._executor.start()
        try:
            for _, hook in by_priority(self._startup_hooks):
                await self._executor.run(hook)
        except BaseException:
            await asyncio.to_thread(self._executor.stop)
            raise
        self._initialized = True

    async def shutdown(self) -> None:
        """Run the shutdown hooks, each even if one before it failed, and stop the author's loop."""
        hooks = by_priority(self._shutdown_hooks) if self._initialized else []
        self._initialized = False
        for _, hook in hooks:
            try:
                await self._executor.run(hook)
            except Exception:
                log.exception("A shutdown hook failed")
        await asyncio.to_thread(self._executor.stop)

    def fail(self, reason: str) -> None:
        """Say, from any thread, that only a new process will recover (a poisoned GPU); who runs this one ends it."""
        self.failure = reason
        self._on_fail(reason)

    def _on_fatal(self, reason: str) -> None:
        """The author's code raised Fatal, wherever: in a stream or a job no request is left to answer it."""
        if self._initialized and self.failure is None:  # else the load failed, or it is over anyway
            self.fail(reason)

    def on_fail(self, callback: Callable[[str], object]) -> None:
        """Have whoever runs it called with the reason when the chute fails, in place of who ran it before."""
        self._on_fail = callback

    def _with_hooks(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
            if self.lifecycle_managed:
                async with inner(app) as state:
                    yield state
                return
            await self.initialize()
            try:
                async with inner(app) as state:
                    yield state
            finally:
                await self.shutdown()

        return lifespan

    # FastAPI's, with what was left for later done first.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as an ASGI application."""
        self._cords.resolve()
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of its cords."""
        self._cords.resolve()
        return super().openapi()

    def build_middleware_stack(self) -> ASGIApp:
        """FastAPI's; our own exceptions answer with their status, unless somebody handles them already."""
        self.exception_handlers.setdefault(ChutesError, _answer)
        return super().build_middleware_stack()


async def _answer(_: Request, error: Exception) -> Response:
    status, headers = (error.status, error.headers) if isinstance(error, ChutesError) else (500, {})
    return JSONResponse({"detail": str(error)}, status, dict(headers))


class ChutePack(BaseModel):
    """A chute and what a template adds to it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    chute: Chute
