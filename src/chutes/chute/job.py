"""Jobs: the functions of a chute that run in the background."""

import asyncio
import inspect
import logging
import tempfile
import threading
from collections.abc import Callable
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Never, NotRequired, Protocol, cast

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator
from typing_extensions import ParamSpec, TypedDict, TypeVar

from chutes._warn import warn_unknown
from chutes.chute import _options
from chutes.chute._handler import signature
from chutes.chute._loop.author_loop import AuthorLoop
from chutes.exception import ChutesError

log = logging.getLogger(__name__)

_MIN_TIMEOUT, _MAX_TIMEOUT = 30, 86_400  # seconds
_SSH_PORT = 2202
_MIN_PORT, _MAX_PORT = 8002, 65_535
_OUTPUT_DIR = "output_dir"

# A bare `Job` in an annotation is a job with any function.
Params = ParamSpec("Params", default=...)
Result = TypeVar("Result", default=Any)
_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")

_cancel_event: ContextVar[threading.Event | None] = ContextVar("cancel_event", default=None)


class JobTimeout(TimeoutError):
    """A job ran longer than its `timeout`. The class distinguishes this from a TimeoutError of the author's code."""


class Port(BaseModel):
    """A port that a job declares: 2202, or 8002 to 65535."""

    name: str
    port: int
    proto: str = "tcp"

    @field_validator("port")
    @classmethod
    def _allowed(cls, port: int) -> int:
        if port != _SSH_PORT and not _MIN_PORT <= port <= _MAX_PORT:
            raise ValueError(f"Port must be {_SSH_PORT}, or from {_MIN_PORT} to {_MAX_PORT}; got {port}.")
        return port


class JobOptions(TypedDict, total=False):
    """The keyword arguments of `Job`."""

    ports: list[Port] | None
    timeout: int | None
    upload: bool
    ssh: bool
    max_body_bytes: int | None
    max_json_values: int | None


class JobDecorator(Protocol):
    """The decorator `@chute.job(...)`, which makes a `Job` with the function's signature."""

    def __call__(self, func: Callable[_Params, _Result], /) -> "Job[_Params, _Result]":
        """Return the job of a function."""


class JobOwner(Protocol):
    """The part of a chute that a job uses."""

    executor: AuthorLoop

    def add_job(self, job: "Job") -> None:
        """Register a job."""


class Job(Generic[Params, Result]):
    """A function that runs in the background. `@chute.job(...)` creates one. Calling the job calls the function.

    Args:
        app: The chute.
        ports: No effect. A job may listen on any port of its machine, and none is published.
        timeout: The time limit in seconds, from 30 to 86400; None for no limit.
        upload: No effect. Results always stay on this machine.
        ssh: No effect. No SSH server is started.
        max_body_bytes: The maximum size of a body in bytes, as for a cord.
        max_json_values: The maximum number of values in a JSON body, as for a cord.
        unknown: Unknown arguments. They have no effect and cause a ChutesWarning. Type checkers reject them.

    Raises:
        AssertionError: The timeout is out of range.
        ValueError: Another number is out of range, or two ports have the same name or number.
    """

    def __init__(
        self,
        app: JobOwner,
        ports: list[Port] | None = None,
        timeout: int | None = None,
        upload: bool = True,
        ssh: bool = False,
        *,
        max_body_bytes: int | None = None,
        max_json_values: int | None = None,
        **unknown: Never,
    ) -> None:
        if timeout is not None and not (isinstance(timeout, int) and _MIN_TIMEOUT <= timeout <= _MAX_TIMEOUT):
            raise AssertionError(
                f"Job timeout must be None or an integer from {_MIN_TIMEOUT} to {_MAX_TIMEOUT} seconds; "
                f"got {timeout!r}."
            )
        _options.check_integer("Job max_body_bytes", max_body_bytes, 1, optional=True)
        _options.check_integer("Job max_json_values", max_json_values, 1, optional=True)
        self._app = app
        self.ports = [*(ports or []), *([Port(name="ssh", port=_SSH_PORT, proto="tcp")] if ssh else [])]
        for field in ("name", "port"):
            values = [getattr(port, field) for port in self.ports]
            if len(set(values)) < len(values):
                raise ValueError(f"Job ports must differ in name and number; two have the same {field}: {values}.")
        self.timeout = timeout
        self.upload = upload
        self.ssh = ssh
        self.max_body_bytes = max_body_bytes
        self.max_json_values = max_json_values
        self.name = ""
        self._func: Callable[Params, Result] | None = None
        self._idle_event = threading.Event()
        warn_unknown("Job", unknown, JobOptions.__annotations__)
        _options.warn_without_effect("Job", ports=ports or [], upload=upload, ssh=ssh)

    def __call__(self, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """Call the author's function. As a decorator, register the function and return the job."""
        if self._func is not None:
            return self._func(*args, **kwargs)
        func: Any = args[0]  # the first call is that of the decorator
        self._func = func
        self.name = func.__name__
        self.__doc__ = func.__doc__
        self._app.add_job(self)
        return cast("Result", self)

    @property
    def func(self) -> Callable[Params, Result]:
        """The author's function."""
        if self._func is None:
            raise TypeError("This job has no function. Write @chute.job(...) above a function.")
        return self._func

    @property
    def cancel_event(self) -> threading.Event:
        """An event that is set when the current run must end, because it was cancelled or timed out."""
        return _cancel_event.get() or self._idle_event

    def arguments(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the function's keyword arguments for a run with this data.

        A single parameter that is a model takes all of the data, or its default if there is none. Other parameters take
        the data by name.

        Raises:
            RequestValidationError: Values are missing, unknown, or of the wrong type. It lists at most a hundred.
        """
        parameters = [p for p in self._parameters() if p.name != _OUTPUT_DIR]
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        hints = {
            p.name: Any if p.annotation is p.empty else signature.resolve(self.func, p.annotation, {}) for p in named
        }
        try:
            if len(named) == 1 and signature.is_model(hints[named[0].name]):
                (only,) = named
                if not data and only.default is not only.empty:
                    return {}
                return {only.name: TypeAdapter(hints[only.name]).validate_python(data)}
            fields = {p.name: hints[p.name] if p.default is p.empty else NotRequired[hints[p.name]] for p in named}
            return self._validate(data, fields, extra=any(p.kind is p.VAR_KEYWORD for p in parameters))
        except ValidationError as error:
            raise signature.request_error(error) from None

    def _validate(self, data: dict[str, Any], fields: dict[str, Any], *, extra: bool) -> dict[str, Any]:
        """Validate data by the types of its fields. `extra` allows other names."""
        if not extra:  # pydantic would report each of a million unknown names
            unknown = islice((name for name in data if name not in fields), signature.MAX_ERRORS)
            data = {name: data[name] for name in (*(name for name in fields if name in data), *unknown)}
        model = cast("Any", TypedDict)(self.name, fields)
        model.__pydantic_config__ = ConfigDict(extra="allow" if extra else "forbid", arbitrary_types_allowed=True)
        return dict(TypeAdapter(model).validate_python(data))

    async def call(self, data: dict[str, Any], *, output_dir: str) -> Any:
        """Run the function once on the author's event loop, and return its result or raise its error.

        After the timeout, or if the caller is cancelled, `cancel_event` is set and a coroutine is cancelled. This
        method returns only after the function has ended.

        Args:
            data: The arguments, by name.
            output_dir: The folder to pass to a function that has a parameter `output_dir`.

        Raises:
            JobTimeout: The function ran longer than `timeout` seconds.
        """
        arguments = self.arguments(data)
        if any(p.name == _OUTPUT_DIR or p.kind is p.VAR_KEYWORD for p in self._parameters()):
            arguments[_OUTPUT_DIR] = output_dir
        cancel = threading.Event()
        token = _cancel_event.set(cancel)
        args = [self._app] if self._takes_chute() else []
        task = asyncio.ensure_future(self._app.executor.run(self.func, *args, **arguments))
        _cancel_event.reset(token)
        try:
            await asyncio.wait([task], timeout=self.timeout)
        finally:
            if not task.done():
                cancel.set()
                task.cancel()
                await asyncio.wait([task])
        if cancel.is_set():
            raise JobTimeout(f"Job {self.name!r} took longer than {self.timeout} seconds.")
        return task.result()

    async def run(self, job_status_url: str | None = None, **job_data: Any) -> dict[str, Any]:
        """Run the function once, and return `{"status": "complete", "result"}` or `{"status": "error", "detail"}`.

        The function's `output_dir` is a temporary folder. If the function writes into it, a log message names it.

        Raises:
            JobTimeout: The function ran longer than `timeout` seconds.
        """
        output = tempfile.mkdtemp(prefix=f"{self.name}-")
        try:
            return {"status": "complete", "result": await self.call(job_data, output_dir=output)}
        except JobTimeout:
            raise
        except Exception as error:
            log.exception("Job %s failed", self.name)
            return {"status": "error", "detail": _detail(error)}
        finally:
            try:
                Path(output).rmdir()  # noqa: ASYNC240 - takes microseconds
            except OSError:  # it is not empty
                log.info("Job %s wrote to %s", self.name, output)

    def _takes_chute(self) -> bool:
        return signature.takes_chute(self.func, type(self._app), {})

    def _parameters(self) -> list[inspect.Parameter]:
        """Return the function's parameters, except for the chute."""
        parameters = list(inspect.signature(self.func).parameters.values())
        return parameters[1:] if self._takes_chute() else parameters


def _detail(error: Exception) -> str:
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, RequestValidationError):
        return "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
    return str(error) if isinstance(error, ChutesError) else f"{type(error).__name__}: {error}"
