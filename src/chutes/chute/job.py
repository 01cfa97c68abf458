"""One function of a chute that runs in the background."""

import asyncio
import inspect
import logging
import tempfile
import threading
from collections.abc import Callable
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any, NotRequired, Protocol, cast

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from typing_extensions import TypedDict

from chutes._warn import warn_unknown
from chutes.chute import _options
from chutes.chute._handler import signature
from chutes.chute._loop.user_loop import UserLoop
from chutes.exception import ChutesError

log = logging.getLogger(__name__)

_SHORTEST, _LONGEST = 30, 86_400  # seconds
_SSH_PORT = 2202
_FIRST_PORT = 8002
_OUTPUT_DIR = "output_dir"

_cancel_event: ContextVar[threading.Event | None] = ContextVar("cancel_event", default=None)


class JobTimeout(TimeoutError):
    """A job was not done in its time. What the author's own code waits for in vain is another TimeoutError."""


class Port(BaseModel):
    """A port that a job listens on."""

    name: str
    port: int = Field(le=65_535)
    proto: str = "tcp"

    @field_validator("port")
    @classmethod
    def _allowed(cls, port: int) -> int:
        if port != _SSH_PORT and port < _FIRST_PORT:
            raise ValueError(f"must be {_SSH_PORT}, or at least {_FIRST_PORT}")
        return port


class JobOwner(Protocol):
    """What a job uses of its chute."""

    @property
    def executor(self) -> UserLoop:
        """The event loop and the threads that run the author's code."""

    def add_job(self, job: "Job") -> None:
        """Offer the job."""


class Job:
    """How a function is run in the background. `@chute.job(...)` makes one, and the decorated name stays callable.

    - `timeout`: 30 to 86400 seconds, or None for no limit.
    - `ports`: what it listens on; `ssh` adds one for that.
    - `upload`: kept for upstream's sake; results stay on this machine.
    - `max_body_bytes`, `max_json_values`: limits of its arguments, as for a cord.
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
        **unknown: Any,
    ) -> None:
        if timeout is not None and not (isinstance(timeout, int) and _SHORTEST <= timeout <= _LONGEST):
            raise AssertionError(f"timeout is None, or {_SHORTEST} to {_LONGEST} whole seconds, not {timeout!r}")
        self._app = app
        self.ports = [*(ports or []), *([Port(name="ssh", port=_SSH_PORT, proto="tcp")] if ssh else [])]
        for what in ("name", "port"):
            values = [getattr(port, what) for port in self.ports]
            if len(set(values)) < len(values):
                raise ValueError(f"Two ports of a job have the same {what}")
        self.timeout = timeout
        self.upload = upload
        self.ssh = ssh
        self.max_body_bytes = _options.positive("max_body_bytes", max_body_bytes)
        self.max_json_values = _options.positive("max_json_values", max_json_values)
        self.name = ""
        self._func: Callable[..., Any] | None = None
        self._idle_event = threading.Event()
        warn_unknown("job", unknown, inspect.signature(Job).parameters.keys() - {"app", "unknown"})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Decorate a function, the first time; call that function from then on."""
        if self._func is not None:
            return self._func(*args, **kwargs)
        (self._func,) = args
        self.name = self._func.__name__
        self.__doc__ = self._func.__doc__
        self._app.add_job(self)
        return self

    @property
    def func(self) -> Callable[..., Any]:
        """The author's function."""
        if self._func is None:
            raise TypeError("This job decorates no function yet")
        return self._func

    @property
    def cancel_event(self) -> threading.Event:
        """Set when the run that asks is to end: cancelled, or out of time."""
        return _cancel_event.get() or self._idle_event

    def arguments(self, data: dict[str, Any]) -> dict[str, Any]:
        """The function's keyword arguments for a run with this data.

        One parameter that is a model takes all of it, or its default where there is none; others take it by name.
        RequestValidationError (422) names what is missing, unknown, or of the wrong type: a hundred at most.
        """
        parameters = [p for p in self._parameters() if p.name != _OUTPUT_DIR]
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        fields: dict[str, Any] = {}
        hint: Any = None
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                hint = Any if p.annotation is p.empty else signature.resolve(self.func, p.annotation, {})
                fields[p.name] = hint if p.default is p.empty else NotRequired[hint]
        try:
            if len(fields) == 1 and signature.is_model(hint):
                if not data and parameters[0].default is not inspect.Parameter.empty:
                    return {}
                return {next(iter(fields)): TypeAdapter(hint).validate_python(data)}
            if not open_ended:  # a million unknown names are a million errors for pydantic, and it stops at none
                unknown = islice((name for name in data if name not in fields), signature.MOST_ERRORS)
                data = {name: data[name] for name in (*(name for name in fields if name in data), *unknown)}
            named = cast("Any", TypedDict)(self.name, fields)
            config = ConfigDict(extra="allow" if open_ended else "forbid", arbitrary_types_allowed=True)
            named.__pydantic_config__ = config
            return dict(TypeAdapter(named).validate_python(data))
        except ValidationError as error:
            raise signature.refused(error) from None

    async def call(self, data: dict[str, Any], *, output_dir: str) -> Any:
        """Run it once, on the author's loop, and wait for what it returns or raises.

        A parameter `output_dir` gets the folder given. JobTimeout after `timeout` seconds. When that happens, or
        the caller is cancelled, `cancel_event` is set, a coroutine is cancelled, and the end of either kind of
        function is waited for.
        """
        arguments = self.arguments(data)
        if any(p.name == _OUTPUT_DIR or p.kind is p.VAR_KEYWORD for p in self._parameters()):
            arguments[_OUTPUT_DIR] = output_dir
        cancel = threading.Event()
        token = _cancel_event.set(cancel)
        args = [self._app] if self._takes_chute() else []
        work = asyncio.ensure_future(self._app.executor.run(self.func, *args, **arguments))
        _cancel_event.reset(token)
        try:
            await asyncio.wait([work], timeout=self.timeout)
        finally:
            if not work.done():
                cancel.set()
                work.cancel()
                await asyncio.wait([work])
        if cancel.is_set():
            raise JobTimeout(f"Job {self.name!r} took longer than {self.timeout} seconds")
        return work.result()

    async def run(self, job_status_url: str | None = None, **job_data: Any) -> dict[str, Any]:
        """Run it once: `{"status": "complete", "result"}` or `{"status": "error", "detail"}`; else as `call`.

        What it writes to its `output_dir` stays in a temporary folder, which the log names.
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
                Path(output).rmdir()  # noqa: ASYNC240 - a moment
            except OSError:  # there is something in it
                log.info("Job %s wrote to %s", self.name, output)

    def _takes_chute(self) -> bool:
        return signature.takes_chute(self.func, type(self._app), {})

    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.func).parameters.values())[self._takes_chute() :]


def _detail(error: Exception) -> str:
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, RequestValidationError):
        return "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
    return str(error) if isinstance(error, ChutesError) else f"{type(error).__name__}: {error}"
