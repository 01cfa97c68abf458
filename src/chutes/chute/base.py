"""A chute: a FastAPI application whose routes are decorated functions."""

import asyncio
import inspect
import logging
import re
import sys
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Unpack
from uuid import NAMESPACE_OID, uuid5

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from chutes._warn import warn
from chutes.chute import _options
from chutes.chute._handler.media import BodyKind
from chutes.chute._loop.author_loop import AuthorLoop
from chutes.chute._loop.hooks import Hook, by_priority, make_hook
from chutes.chute._options import ChuteOptions
from chutes.chute._progress import Progress
from chutes.chute._routing.route import ChuteRoute
from chutes.chute._routing.routes import Routes
from chutes.chute.cord import Cord, CordOptions, Function
from chutes.chute.job import Job, JobDecorator, JobOptions
from chutes.chute.node_selector import NodeSelector
from chutes.exception import ChutesError
from chutes.image import Image

log = logging.getLogger(__name__)

_SLUG_LENGTH = 58  # a label of a host name has at most 63 characters; the rest leaves room for a suffix


class Chute(FastAPI):
    """An inference service: a FastAPI application made of decorated functions.

    Its cords answer HTTP requests, its jobs run in the background, and its hooks load and release the model.

    Args:
        username: The owner's name; part of `uid` and `slug`.
        name: The chute's name; must not be empty.
        image: The container image: an `Image`, or the name of an existing one.
        tagline: A summary in one line.
        readme: A description in Markdown.
        standard_template: The name of the template that made this chute.
        revision: The commit of the model. It is stored as an attribute and has no effect.
        node_selector: The GPUs that one replica needs; None runs anywhere.
        concurrency: The number of requests that run at once, and of threads for plain `def` handlers.
        max_instances: The maximum number of replicas on a cluster. Alias: `max_replicas`.
        shutdown_after_seconds: Seconds of low load before the cluster removes a replica. Alias: `scale_down_delay`.
        scaling_threshold: Utilization, above 0 and up to 1, above which the cluster adds a replica.
        passthrough_headers: Headers that passthrough cords send to their upstream.
        min_replicas: The minimum number of replicas on a cluster. Alias: `min_instances`.
        scale_up_threshold: The number of queued requests for which the cluster adds one more replica. A value between
            0 and 1 is a `scaling_threshold`.
        allow_external_egress: No effect. Outgoing connections are never restricted.
        encrypted_fs: No effect. Files are not encrypted.
        tee: No effect. The chute does not run in a trusted execution environment.
        lock_modules: No effect. Python modules are not locked.
        options: FastAPI's keyword arguments. Unknown arguments are stored in `extra`, have no effect and cause a
            ChutesWarning. Type checkers reject them.

    Raises:
        ValueError: The name is empty, or a number is out of range.

    Attributes:
        uid (str): An identifier that depends only on `username` and `name`.
        slug (str): `username` and `name` as one label of a host name.
        jobs (list[Job]): The registered jobs.
        extra (dict[str, Any]): Unknown keyword arguments.
        executor (AuthorLoop): The event loop and the threads that run the author's code.
        progress (Progress): The loading progress that startup hooks report. `/ready` shows it while the chute loads.
        info (dict[str, object]): Values about the loaded model. `/ready` shows them once the chute is ready.
        failure (str | None): The reason for a failure that requires a restart of the process, or None.
        lifecycle_managed (bool): Whether the server runs the hooks, instead of the ASGI lifespan.
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
        **options: Unpack[ChuteOptions],
    ) -> None:
        if not name:
            raise ValueError(f"Chute name must not be empty; got {name!r}.")
        _options.check_integer("Chute concurrency", concurrency, 1)
        own = {
            "max_instances": max_instances,
            "min_replicas": min_replicas,
            "scaling_threshold": scaling_threshold,
            "scale_up_threshold": scale_up_threshold,
            "shutdown_after_seconds": shutdown_after_seconds,
        }
        parameters = inspect.signature(Chute.__init__).parameters
        scaling = _options.scaling_options(own, {name: parameters[name].default for name in own}, options)
        fastapi_options, unknown = _options.split_options(options, parameters.keys() - {"self", "options"})
        _options.warn_without_effect(
            "Chute",
            allow_external_egress=allow_external_egress,
            encrypted_fs=encrypted_fs,
            tee=tee,
            lock_modules=lock_modules,
        )
        super().__init__(**{"title": name, "summary": tagline or None, "description": readme, **fastapi_options})
        self.extra = unknown

        # Code written for the hosted platform's SDK also reads some of these under a private name.
        self.username = self._username = username
        self.name = self._name = name
        self.uid = str(uuid5(NAMESPACE_OID, f"{username}::chute::{name}"))
        self.slug = _slug(username, name)
        self.image = self._image = image
        self.tagline = tagline
        self.readme = readme
        self.standard_template = self._standard_template = standard_template
        self.revision = revision
        self.node_selector = node_selector
        self.concurrency = concurrency
        self.max_instances: int = scaling["max_instances"]
        self.min_replicas: int = scaling["min_replicas"]
        self.scaling_threshold: float = scaling["scaling_threshold"]
        self.scale_up_threshold: float | None = scaling["scale_up_threshold"]
        self.shutdown_after_seconds: int = scaling["shutdown_after_seconds"]
        self.max_replicas, self.min_instances = self.max_instances, self.min_replicas
        self.scale_down_delay = self.shutdown_after_seconds
        self.allow_external_egress = allow_external_egress
        self.encrypted_fs = encrypted_fs
        self.passthrough_headers = dict(passthrough_headers or {})
        self.tee = tee
        self.lock_modules = lock_modules
        self._set_up()

    def _set_up(self) -> None:
        """Initialize the attributes that do not come from arguments."""
        self.progress = Progress()
        self.info: dict[str, object] = {}
        self.failure: str | None = None
        self.lifecycle_managed = False
        self.executor = AuthorLoop(self.concurrency, self._on_fatal)
        self.router.route_class = ChuteRoute
        self.router.lifespan_context = self._wrap_lifespan(self.router.lifespan_context)
        self._routes = Routes(self.router)
        self.jobs: list[Job] = []
        self._jobs = self.jobs
        self._startup_hooks: list[Hook] = []
        self._shutdown_hooks: list[Hook] = []
        self._failure_callback: Callable[[str], object] = lambda reason: None
        self._initialized = False

    # Decorators

    def cord(self, func: None = None, /, **options: Unpack[CordOptions]) -> Cord:
        """Serve the decorated function over HTTP. The options are those of `Cord`.

        The decorator returns the function unchanged.
        """
        _options.check_keywords_only("cord", func, 'public_api_path="/..."')
        return Cord(self, **options)

    def job(self, func: None = None, /, **options: Unpack[JobOptions]) -> JobDecorator:
        """Run the decorated function in the background when a client starts it. The options are those of `Job`.

        The decorator returns a `Job`. Calling the job calls the function.
        """
        _options.check_keywords_only("job", func)
        return Job(self, **options)

    def on_startup(self, priority: int = 50) -> Callable[[Function], Function]:
        """Run the decorated function before the first request. Lower priorities run first.

        The function takes the chute or nothing. Functions of equal priority run in the order of definition.
        """
        _options.check_parentheses("on_startup", priority)
        return self._hook_decorator(self._startup_hooks, priority)

    def on_shutdown(self, priority: int = 50) -> Callable[[Function], Function]:
        """Run the decorated function after the last request. Lower priorities run first.

        The function takes the chute or nothing. It runs even if another shutdown hook fails.
        """
        _options.check_parentheses("on_shutdown", priority)
        return self._hook_decorator(self._shutdown_hooks, priority)

    def _hook_decorator(self, hooks: list[Hook], priority: int) -> Callable[[Function], Function]:
        def decorate(func: Function) -> Function:
            hooks.append((priority, make_hook(func, self)))
            return func

        return decorate

    # Cords and jobs

    @property
    def cords(self) -> list[Cord]:
        """The registered cords, in the order of definition."""
        return self._routes.cords

    _cords = cords

    def body_kind(self, cord: Cord) -> BodyKind | None:
        """Return how the route of a cord parses the body; None if no parameter takes it."""
        return self._routes.body_kind(cord)

    def add_cord(self, cord: Cord) -> None:
        """Register a cord. It replaces, with a warning, a cord or route at the same path and method."""
        # Annotations may use local names of the function in which the handler is defined.
        frame = sys._getframe(2)  # noqa: SLF001 - there is no public API for them
        self._routes.add(cord, {} if frame.f_locals is frame.f_globals else dict(frame.f_locals))
        self.openapi_schema = None

    def add_job(self, job: Job) -> None:
        """Register a job. It replaces, with a warning, a job of the same name."""
        for other in [other for other in self.jobs if other.name == job.name]:
            warn(f"Job {job.name!r} replaces an earlier job of the same name.")
            self.jobs.remove(other)
        self.jobs.append(job)

    # Lifecycle

    async def initialize(self) -> None:
        """Run the startup hooks on the author's event loop, unless they have run already."""
        if self._initialized:
            return
        self._routes.resolve()
        self.executor.threads = self.concurrency
        self.executor.start()
        try:
            for _, hook in by_priority(self._startup_hooks):
                await self.executor.run(hook)
        except BaseException:
            await asyncio.to_thread(self.executor.stop)
            raise
        self._initialized = True

    async def shutdown(self) -> None:
        """Run every shutdown hook, even if one fails, and stop the author's event loop."""
        hooks = by_priority(self._shutdown_hooks) if self._initialized else []
        self._initialized = False
        for _, hook in hooks:
            try:
                await self.executor.run(hook)
            except Exception:
                log.exception("A shutdown hook failed")
        await asyncio.to_thread(self.executor.stop)
        if not self.lifecycle_managed:  # the process continues, and a test may start the chute again
            self.executor.allow_restart()

    def fail(self, reason: str) -> None:
        """Report a failure that requires a restart of the process. The server then exits. Thread-safe."""
        self.failure = reason
        self._failure_callback(reason)

    def _on_fatal(self, reason: str) -> None:
        """Call `fail` for a Fatal error of the author's code, also in a stream or job, where no response reports it."""
        if self._initialized and self.failure is None:  # otherwise loading failed, or the failure is already reported
            self.fail(reason)

    def set_failure_callback(self, callback: Callable[[str], object]) -> None:
        """Set the function that `fail` calls with the reason. It replaces an earlier one."""
        self._failure_callback = callback

    def _wrap_lifespan(self, inner: Callable[..., Any]) -> Callable[..., Any]:
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

    # Overrides of FastAPI's methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        self._routes.resolve()
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        self._routes.resolve()
        return super().openapi()

    def build_middleware_stack(self) -> ASGIApp:
        """Build FastAPI's middleware stack, with a default handler that turns a ChutesError into its response."""
        self.exception_handlers.setdefault(ChutesError, _error_response)
        return super().build_middleware_stack()


def _slug(username: str, name: str) -> str:
    text = unicodedata.normalize("NFKD", f"{username}-{name}").encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_SLUG_LENGTH].rstrip("-")


async def _error_response(_: Request, error: Exception) -> Response:
    status, headers = (error.status, error.headers) if isinstance(error, ChutesError) else (500, {})
    return JSONResponse({"detail": str(error)}, status, dict(headers))


class ChutePack(BaseModel):
    """The result of a template: a chute, and in subclasses its handlers."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    chute: Chute
