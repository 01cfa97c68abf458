"""Cords: the functions of a chute that answer HTTP requests."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from http import HTTPMethod
from typing import Any, NamedTuple, Never, Protocol, TypedDict, TypeVar

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.responses import Response

from chutes._warn import warn_unknown
from chutes.chute import _options
from chutes.chute._handler import signature
from chutes.chute._handler.passthrough import forward
from chutes.chute._handler.request import AuthorRequest
from chutes.chute._handler.responses import to_response
from chutes.chute._loop.author_loop import AuthorLoop
from chutes.exception import InvalidPath
from chutes.util.schema import Schema, SchemaExtractor

PATH_RE = re.compile(r"^(/[a-z0-9_]+[a-z0-9-_]*)+$")

Function = TypeVar("Function", bound=Callable[..., Any])
SchemaOption = type[BaseModel] | Schema

_UPSTREAM_PORT = 8000
_READ_TIMEOUT = 1800.0  # seconds; a language model may take minutes for a long prompt before its first token


class CordOptions(TypedDict, total=False):
    """The keyword arguments of `Cord`."""

    stream: bool
    path: str | None
    passthrough_path: str | None
    passthrough: bool
    passthrough_port: int | None
    public_api_path: str | None
    public_api_method: str | None
    method: str
    provision_timeout: int
    input_schema: SchemaOption | None
    minimal_input_schema: SchemaOption | None
    output_content_type: str | None
    output_schema: SchemaOption | None
    sglang_passthrough: bool
    max_body_bytes: int | None
    max_json_values: int | None


class CordOwner(Protocol):
    """The part of a chute that a cord uses."""

    passthrough_headers: dict[str, str]
    executor: AuthorLoop

    def add_cord(self, cord: "Cord") -> None:
        """Register a cord, so that the chute serves it."""


class Endpoint(NamedTuple):
    """The function that FastAPI calls for a cord, and the types that its documentation needs.

    Attributes:
        function: The endpoint function, with a signature that FastAPI understands.
        return_hint: The resolved return annotation of the handler, or None.
        body: The parameter that takes the whole JSON body, or None.
    """

    function: Callable[..., Any]
    return_hint: Any
    body: signature.WholeBody | None


class Cord:
    """A function that answers HTTP requests. `@chute.cord(...)` creates one.

    Args:
        app: The chute.
        stream: Whether to stream any iterable that the function returns. Generators always stream.
        path: The internal path, which must be unique in the chute; by default the function's name.
        passthrough: Whether to forward requests to an upstream, a server on this machine, instead of calling the
            function.
        passthrough_path: The path at the upstream; by default the function's name.
        passthrough_port: The port of the upstream; 8000 by default.
        public_api_path: The path at which the cord is served; by default `path`.
        public_api_method: The HTTP method under which the cord is served; by default `method`, or POST for a
            passthrough cord.
        method: The HTTP method under which the cord is served, unless `public_api_method` is given; for a passthrough
            cord, the method of the request to the upstream.
        provision_timeout: No effect. No call waits for an instance to be provisioned.
        input_schema: The model of the body, for a handler whose annotations contain no model; or a JSON schema, which
            is documentation only.
        minimal_input_schema: A model whose defaults are documented as an example, or a JSON schema.
        output_content_type: The content type of bytes, text and streams.
        output_schema: The model or JSON schema of the output. It is documentation only.
        sglang_passthrough: Whether the upstream may send nothing for more than 30 minutes.
        max_body_bytes: The maximum size of a body in bytes. The default and upper bound is `CHUTES_MAX_BODY_BYTES`.
        max_json_values: The maximum number of values in a JSON body; `CHUTES_MAX_JSON_VALUES` by default.
        session_kwargs: Unknown arguments. They are stored, have no effect and cause a ChutesWarning. Type checkers
            reject them.

    Raises:
        InvalidPath: A path is malformed. The class states the rule.
        ValueError: A number is out of range, or a method is unknown.
        TypeError: A schema is neither a model nor a dict.
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
        input_schema: SchemaOption | None = None,
        minimal_input_schema: SchemaOption | None = None,
        output_content_type: str | None = None,
        output_schema: SchemaOption | None = None,
        sglang_passthrough: bool = False,
        *,
        max_body_bytes: int | None = None,
        max_json_values: int | None = None,
        **session_kwargs: Never,
    ) -> None:
        _options.check_integer("Cord passthrough_port", passthrough_port, 1, 65_535, optional=True)
        _options.check_integer("Cord max_body_bytes", max_body_bytes, 1, optional=True)
        _options.check_integer("Cord max_json_values", max_json_values, 1, optional=True)
        self._app = app
        self.stream = stream
        self.path = _normalize_path("path", path)
        self.passthrough = passthrough
        self.passthrough_path = _normalize_path("passthrough_path", passthrough_path)
        self.passthrough_port = passthrough_port
        self.public_api_path = _normalize_path("public_api_path", public_api_path) or None
        self.method = _normalize_method("method", method)
        public_default = "POST" if passthrough else self.method
        self.public_api_method = _normalize_method("public_api_method", public_api_method or public_default)
        self.provision_timeout = provision_timeout
        self.sglang_passthrough = sglang_passthrough
        self.max_body_bytes = max_body_bytes
        self.max_json_values = max_json_values
        self.session_kwargs: dict[str, Any] = dict(session_kwargs)
        self._input_schema = _check_schema("input_schema", input_schema)
        self._minimal_input_schema = _check_schema("minimal_input_schema", minimal_input_schema)
        self._output_schema = _check_schema("output_schema", output_schema)
        self.content_type = output_content_type
        self.name = ""
        self._func: Callable[..., Any] | None = None
        warn_unknown("Cord", session_kwargs, CordOptions.__annotations__)
        _options.warn_without_effect("Cord", provision_timeout=provision_timeout)

    def __call__(self, func: Function) -> Function:
        """Register a function as the handler, and return it unchanged."""
        self._func = func
        self.name = getattr(func, "__name__", type(func).__name__)
        self.path = self.path or _normalize_path("path", self.name)
        self.passthrough_path = self.passthrough_path or _normalize_path("passthrough_path", self.name)
        self._app.add_cord(self)
        return func

    @property
    def func(self) -> Callable[..., Any]:
        """The author's function."""
        if self._func is None:
            raise TypeError("This cord has no function. Write @chute.cord(...) above a function.")
        return self._func

    @property
    def route_path(self) -> str:
        """The path at which the cord is served."""
        return self.public_api_path or self.path

    @property
    def route_methods(self) -> frozenset[str]:
        """The HTTP methods under which the cord is served."""
        return frozenset({self.public_api_method})

    @property
    def upstream_url(self) -> str:
        """The URL to which a passthrough cord forwards requests."""
        return f"http://127.0.0.1:{self.passthrough_port or _UPSTREAM_PORT}{self.passthrough_path}"

    # Schemas, for documentation

    @cached_property
    def _extracted(self) -> tuple[Schema, str | None, Schema]:
        return SchemaExtractor.extract_schemas(self.func)

    @property
    def input_models(self) -> list[type[BaseModel]] | None:
        """The models among the function's parameters, or None if a parameter is not a model."""
        if isinstance(self._input_schema, type):
            return [self._input_schema]
        return SchemaExtractor.extract_models(self.func)

    @property
    def input_model(self) -> type[BaseModel] | None:
        """The `input_schema` if it is a model, else None."""
        return self._input_schema if isinstance(self._input_schema, type) else None

    @property
    def input_schema(self) -> Schema:
        """The JSON schema of the input."""
        return _json_schema(self._input_schema) or self._extracted[0]

    @property
    def minimal_input_schema(self) -> Schema | None:
        """The JSON schema given as `minimal_input_schema`, or that of its model."""
        return _json_schema(self._minimal_input_schema)

    @property
    def minimal_example(self) -> dict[str, Any] | None:
        """An example made of the defaults of `minimal_input_schema`, or None if a field has no default."""
        if not isinstance(self._minimal_input_schema, type):
            return None
        try:
            return self._minimal_input_schema().model_dump(mode="json")
        except ValidationError:
            return None

    @property
    def output_schema(self) -> Schema:
        """The JSON schema of the output."""
        if isinstance(self._output_schema, type):
            return self._output_schema.model_json_schema()
        return self._output_schema or self._extracted[2]

    @property
    def output_content_type(self) -> str | None:
        """The content type of the output: the given one, or one derived from the return annotation."""
        return self.content_type or self._extracted[1]

    # Endpoint

    def endpoint(self, names: Mapping[str, Any]) -> Endpoint:
        """Return the endpoint of the cord.

        Args:
            names: The local names where the handler is defined, which its annotations may use.

        Raises:
            UnresolvedError: An annotation refers to a name that is not defined, or not defined yet.
        """
        body = None
        if self.passthrough:
            function = self._passthrough_function()
        else:
            adapter = signature.adapt_handler(
                self.func, type(self._app), self.public_api_method, self.input_model, names
            )
            function, body = self._handler_function(adapter), adapter.body
        function.__name__ = self.name
        function.__doc__ = self.func.__doc__
        return Endpoint(function, signature.return_hint(self.func, names), body)

    def _passthrough_function(self) -> Callable[..., Any]:
        async def endpoint(request: Request) -> Response:
            read_timeout = None if self.sglang_passthrough else _READ_TIMEOUT
            return await forward(request, self.method, self.upstream_url, self._app.passthrough_headers, read_timeout)

        return endpoint

    def _handler_function(self, adapter: signature.HandlerAdapter) -> Callable[..., Any]:
        chute, loop, func = self._app, self._app.executor, self.func
        is_generator = inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func)
        body = adapter.body

        async def endpoint(**values: Any) -> Response:
            if body is not None and values[body.name] is None:
                values[body.name] = _empty_body(body.adapter)
            injected = adapter.take_response(values)
            background = [value for value in values.values() if isinstance(value, BackgroundTasks)]
            for name, value in values.items():
                if isinstance(value, Request):
                    values[name] = await AuthorRequest.of(value)
            args, kwargs = adapter.arguments(chute, values)
            result = func(*args, **kwargs) if is_generator else await loop.run(func, *args, **kwargs)
            for tasks in background:
                tasks.tasks = [BackgroundTask(loop.run, t.func, *t.args, **t.kwargs) for t in tasks.tasks]
            response = await to_response(result, self.content_type, loop, stream=self.stream)
            if response is not result:
                response.status_code = injected.status_code or response.status_code
                response.raw_headers = [*response.raw_headers, *injected.raw_headers]
            return response

        endpoint.__signature__ = adapter.signature  # type: ignore[attr-defined]  # FastAPI reads it with inspect.signature()
        return endpoint


def _empty_body(adapter: TypeAdapter[Any]) -> Any:
    """Return the value of the body for a request without one: the model's defaults."""
    try:
        return adapter.validate_python({})
    except ValidationError as error:
        raise signature.request_error(error) from None


def _normalize_path(option: str, path: str | None) -> str:
    """Return the path in an option, with one leading and no trailing slash, or an empty string for None.

    Raise InvalidPath if the path is malformed.
    """
    if path is None:
        return ""
    normal = "/" + path.strip("/")
    if not PATH_RE.fullmatch(normal):
        raise InvalidPath(
            f"Cord {option} must consist of lower-case letters, digits, '_' and '-', with no '-' after a '/'; "
            f"got {path!r}."
        )
    return normal


def _normalize_method(option: str, method: str) -> str:
    if method.upper() not in HTTPMethod.__members__:
        raise ValueError(f"Cord {option} must be an HTTP method such as 'GET' or 'POST'; got {method!r}.")
    return method.upper()


def _check_schema(name: str, schema: Any) -> SchemaOption | None:
    if schema is None or isinstance(schema, dict) or (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return schema
    raise TypeError(f"Cord {name} must be a subclass of pydantic.BaseModel or a dict; got {schema!r}.")


def _json_schema(schema: SchemaOption | None) -> Schema | None:
    return SchemaExtractor.get_minimal_schema(schema) if isinstance(schema, type) else schema
