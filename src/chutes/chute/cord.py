"""One function of a chute that is reached over HTTP."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from http import HTTPMethod
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.responses import Response

from chutes._warn import warn_unknown
from chutes.chute import _options
from chutes.chute._handler import signature
from chutes.chute._handler.passthrough import forward
from chutes.chute._handler.request import AuthorsRequest
from chutes.chute._handler.responses import to_response
from chutes.chute._loop.user_loop import UserLoop
from chutes.exception import InvalidPath
from chutes.util.schema import Schema, SchemaExtractor

if TYPE_CHECKING:
    from chutes.chute._handler.media import BodyKind

PATH_RE = re.compile(r"^(/[a-z0-9_]+[a-z0-9-_]*)+$")

Function = TypeVar("Function", bound=Callable[..., Any])
InputSchema = type[BaseModel] | Schema

_UPSTREAM_PORT = 8000
_SILENCE = 1800.0  # seconds without a byte; a long prompt is read for minutes before the first token comes


class CordOwner(Protocol):
    """What a cord uses of its chute."""

    passthrough_headers: dict[str, str]

    @property
    def executor(self) -> UserLoop:
        """The event loop and the threads that run the author's code."""

    def add_cord(self, cord: "Cord") -> None:
        """Serve the cord."""


class Cord:
    """How a function is served. `@chute.cord(...)` makes one.

    - `public_api_path`: where; at `path`, the function's own name, if it isn't given.
    - `method`: the verb it is served under; that of a passthrough cord is the verb towards its upstream.
    - `public_api_method`: wins over `method`.
    - `input_schema`: the body's model where the handler's own annotations don't say; `minimal_input_schema` is
      shown as an example; each a model, or a JSON schema that is only shown.
    - `output_content_type`: the content type of bytes, text and streams.
    - `stream`: the function yields the answer piece by piece.
    - `passthrough`: the request goes to `passthrough_path` at `passthrough_port` of this machine instead.
    - `max_body_bytes`: the largest body that is accepted, up to `CHUTES_MAX_BODY_BYTES`, which is the default.
    - `max_json_values`: the most values of a JSON body, in place of `CHUTES_MAX_JSON_VALUES`.
    """

    def __init__(
        self,
        app: CordOwner,
        stream: bool = False,
        path: str | None = None,
        passthrough_path: str | None = None,
        passthrough: bool = False,
        passthrough_port: int | None = None,
        public_api_path: str | None = None,
        public_api_method: str | None = None,
        method: str = "POST",
        provision_timeout: int = 180,
        input_schema: InputSchema | None = None,
        minimal_input_schema: InputSchema | None = None,
        output_content_type: str | None = None,
        output_schema: InputSchema | None = None,
        sglang_passthrough: bool = False,
        *,
        max_body_bytes: int | None = None,
        max_json_values: int | None = None,
        **session_kwargs: Any,
    ) -> None:
        self._app = app
        self.stream = stream
        self.passthrough = passthrough
        self.passthrough_port = passthrough_port
        self.provision_timeout = provision_timeout
        self.sglang_passthrough = sglang_passthrough
        self.max_body_bytes = _options.positive("max_body_bytes", max_body_bytes)
        self.max_json_values = _options.positive("max_json_values", max_json_values)
        self.body_kind: BodyKind | None = None  # known once there is a route
        self.session_kwargs = session_kwargs
        self.method = _verb(method)
        self.public_api_method = _verb(public_api_method or ("POST" if passthrough else method))
        self.name = ""
        self._path = _path(path)
        self._passthrough_path = _path(passthrough_path)
        self.public_api_path = _path(public_api_path)
        self._input_schema = _schema(input_schema)
        self._minimal_input_schema = _schema(minimal_input_schema)
        self._output_schema = _schema(output_schema)
        self.content_type = output_content_type
        self.return_hint: Any = None
        self.handler: signature.Handler | None = None
        self._func: Callable[..., Any] | None = None
        known = inspect.signature(Cord).parameters.keys() - {"app", "session_kwargs"}
        warn_unknown("cord", session_kwargs, known)

    def __call__(self, func: Function) -> Function:
        """Serve the function, and leave it as it is."""
        self._func = func
        self.name = getattr(func, "__name__", type(func).__name__)
        self._path = self._path or _path(self.name)
        self._passthrough_path = self._passthrough_path or _path(self.name)
        self._app.add_cord(self)
        return func

    @property
    def func(self) -> Callable[..., Any]:
        """The author's function."""
        if self._func is None:
            raise TypeError("This cord decorates no function yet")
        return self._func

    @property
    def path(self) -> str:
        """The internal path: the function's own name, unless another was given."""
        return self._path or ""

    @property
    def passthrough_path(self) -> str:
        """The path at the upstream of a passthrough cord."""
        return self._passthrough_path or ""

    @property
    def route_path(self) -> str:
        """Where it is served."""
        return self.public_api_path or self.path

    @property
    def route_methods(self) -> frozenset[str]:
        """The verbs it is served under."""
        return frozenset({self.public_api_method})

    @property
    def upstream(self) -> str:
        """The address that a passthrough cord passes requests on to."""
        return f"http://127.0.0.1:{self.passthrough_port or _UPSTREAM_PORT}{self.passthrough_path}"

    # What is shown of it.

    @cached_property
    def _extracted(self) -> tuple[Schema, str | None, Schema]:
        return SchemaExtractor.extract_schemas(self.func)

    @property
    def input_models(self) -> list[type[BaseModel]] | None:
        """The models that it takes, or None if it takes anything that is not a model."""
        if isinstance(self._input_schema, type):
            return [self._input_schema]
        return SchemaExtractor.extract_models(self.func)

    @property
    def input_model(self) -> type[BaseModel] | None:
        """The model given as `input_schema`, if it was one."""
        return self._input_schema if isinstance(self._input_schema, type) else None

    @property
    def input_schema(self) -> Schema:
        """The JSON schema of its input."""
        return _as_schema(self._input_schema) or self._extracted[0]

    @property
    def minimal_input_schema(self) -> Schema | None:
        """The JSON schema of the least that it needs."""
        return _as_schema(self._minimal_input_schema)

    @property
    def minimal_example(self) -> dict[str, Any] | None:
        """A request made of the minimal schema's defaults, if it has one for each field."""
        if not isinstance(self._minimal_input_schema, type):
            return None
        try:
            return self._minimal_input_schema().model_dump(mode="json")
        except ValidationError:
            return None

    @property
    def output_schema(self) -> Schema:
        """The JSON schema of its output."""
        if isinstance(self._output_schema, type):
            return self._output_schema.model_json_schema()
        return self._output_schema or self._extracted[2]

    @property
    def output_content_type(self) -> str | None:
        """The content type of its output, as given or as the return annotation suggests."""
        return self.content_type or self._extracted[1]

    # What FastAPI calls.

    def endpoint(self, names: Mapping[str, Any] | None = None) -> Callable[..., Any]:
        """The function that FastAPI routes to, with a signature of its kind. Raises `signature.UnresolvedError`."""
        self.return_hint = signature.return_hint(self.func, names or {})
        endpoint = self._passthrough_endpoint() if self.passthrough else self._endpoint(names)
        endpoint.__name__ = self.name
        endpoint.__doc__ = self.func.__doc__
        return endpoint

    def _passthrough_endpoint(self) -> Callable[..., Any]:
        async def endpoint(request: Request) -> Response:
            silence = None if self.sglang_passthrough else _SILENCE
            return await forward(request, self.method, self.upstream, self._app.passthrough_headers, silence)

        return endpoint

    def _endpoint(self, names: Mapping[str, Any] | None) -> Callable[..., Any]:
        chute, loop, func = self._app, self._app.executor, self.func
        handler = signature.read(func, type(chute), self.public_api_method, self.input_model, names)
        self.handler = handler
        yields = inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)
        body = handler.body

        async def endpoint(**values: Any) -> Response:
            if body is not None and values[body.name] is None:
                values[body.name] = _empty_body(body.adapter)
            said = handler.said(values)
            later = [value for value in values.values() if isinstance(value, BackgroundTasks)]
            for name, value in values.items():
                if isinstance(value, Request):
                    values[name] = await AuthorsRequest.of(value)
            args, kwargs = handler.arguments(chute, values)
            result = func(*args, **kwargs) if yields else await loop.run(func, *args, **kwargs)
            for tasks in later:
                tasks.tasks = [BackgroundTask(loop.run, t.func, *t.args, **t.kwargs) for t in tasks.tasks]
            answer = await to_response(result, self.content_type, loop, stream=self.stream)
            if answer is not result:
                answer.status_code = said.status_code or answer.status_code
                answer.raw_headers = [*answer.raw_headers, *said.raw_headers]
            return answer

        endpoint.__signature__ = handler.signature  # type: ignore[attr-defined]  # what inspect.signature() reads
        return endpoint


def _empty_body(adapter: TypeAdapter[Any]) -> Any:
    """What a request without a body stands for: the model's defaults."""
    try:
        return adapter.validate_python({})
    except ValidationError as error:
        raise signature.refused(error) from None


def _path(path: str | None) -> str | None:
    """A path with one slash in front and none behind; InvalidPath if it is none."""
    if path is None:
        return None
    normal = "/" + path.strip("/")
    if not PATH_RE.fullmatch(normal):
        raise InvalidPath(
            f"{path!r} is not a cord's path: use lower-case letters, digits, '_' and '-', and begin no part with '-'"
        )
    return normal


def _verb(method: str) -> str:
    if method.upper() not in HTTPMethod.__members__:
        raise ValueError(f"{method!r} is not an HTTP method")
    return method.upper()


def _schema(schema: Any) -> InputSchema | None:
    if schema is None or isinstance(schema, dict) or (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return schema
    raise TypeError(f"Schema must be a Pydantic BaseModel class or a dict, got {schema!r}")


def _as_schema(schema: InputSchema | None) -> Schema | None:
    return SchemaExtractor.get_minimal_schema(schema) if isinstance(schema, type) else schema
