"""The signature that FastAPI sees for a handler, derived from the handler's parameters.

    (chute, params: Model)            the model is the whole JSON body
    (chute, args) or (args: dict)     the whole JSON body, unchanged
    (chute, prompt: str, n: int = 1)  fields of the JSON body by name, or form fields if one is an UploadFile
    (chute, request: Request, …)      FastAPI's own parameters (Depends, UploadFile, Header, …) stay as they are

For a method without a body, the same values come from the query string. The first parameter is the chute, whatever its
name, unless it is annotated with another type.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin

from fastapi import Body, Depends, Form, Query, Request, UploadFile, params
from fastapi.exceptions import RequestValidationError
from fastapi.security import SecurityScopes
from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from starlette.background import BackgroundTasks
from starlette.requests import HTTPConnection
from starlette.responses import Response
from typing_extensions import is_typeddict

BODYLESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})
"""The HTTP methods whose requests have no body."""

_FASTAPI_TYPES = (HTTPConnection, Response, BackgroundTasks, SecurityScopes)
_FASTAPI_MARKERS = (params.Param, params.Body, params.Depends)
_CHUTE_NAMES = ("self", "chute", "app")  # of a first parameter, with any annotation
_ADDED_RESPONSE = "chutes_response"  # a parameter for handlers without a response parameter of their own
_EMPTY = inspect.Parameter.empty

MAX_ERRORS = 100
"""The maximum number of validation errors in a response."""
MAX_CONVERTED = 10_000
"""The maximum number of validation errors to convert. Each takes time and memory."""


class UnresolvedError(TypeError):
    """An annotation of a handler refers to a name that is not defined, or not defined yet."""


@dataclasses.dataclass(frozen=True)
class WholeBody:
    """A parameter that takes the whole JSON body. A missing body counts as `{}`."""

    name: str
    adapter: TypeAdapter[Any]

    @property
    def is_required(self) -> bool:
        """Whether a body is required, because `{}` is not valid."""
        try:
            self.adapter.validate_python({})
        except ValidationError:
            return True
        return False


@dataclasses.dataclass(frozen=True)
class HandlerAdapter:
    """The signature that FastAPI sees for an author's function, and the conversion of FastAPI's values to arguments.

    Attributes:
        takes_chute: Whether the first argument is the chute.
        signature: The signature that FastAPI sees.
        positional: The names of the positional-only parameters.
        body: The parameter that takes the whole body, or None.
        response_parameter: The name of the function's parameter for a `Response`, or an empty string.
    """

    takes_chute: bool
    signature: inspect.Signature
    positional: list[str]
    body: WholeBody | None
    response_parameter: str

    def take_response(self, values: dict[str, Any]) -> Response:
        """Return the response on which dependencies and the handler set headers and status.

        Remove it from the values unless the function has a parameter for it.
        """
        parameter = self.response_parameter
        response: Response = values[parameter] if parameter else values.pop(_ADDED_RESPONSE)
        return response

    def arguments(self, chute: object, values: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return positional and keyword arguments for one call, from values by parameter name."""
        positional = [values.pop(name) for name in self.positional]
        return ([chute, *positional] if self.takes_chute else positional), values


def takes_chute(func: Callable[..., Any], app: type, names: Mapping[str, Any]) -> bool:
    """Return whether the first parameter is the chute: it has no annotation, a usual name, or a class of the chute."""
    first = next(iter(inspect.signature(func).parameters.values()), None)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if first is None or first.kind not in positional or first.default is not _EMPTY:
        return False
    if first.annotation is _EMPTY or first.name in _CHUTE_NAMES:
        return True
    if isinstance(first.annotation, str) and first.annotation.rpartition(".")[2] in {c.__name__ for c in app.__mro__}:
        return True
    hint = resolve(func, first.annotation, names)
    return hint is Any or (isinstance(hint, type) and issubclass(app, hint))


def resolve(func: Callable[..., Any], annotation: Any, names: Mapping[str, Any]) -> Any:
    """Resolve an annotation in `names` and then in the function's module. Raise UnresolvedError if that fails."""
    holder = types.SimpleNamespace(__annotations__={"hint": annotation})
    module = getattr(inspect.unwrap(func), "__globals__", {})
    try:
        return typing.get_type_hints(holder, module, {**names}, include_extras=True)["hint"]
    except NameError as error:
        raise UnresolvedError(f"{annotation!r} cannot be resolved: {error}") from None
    except (TypeError, SyntaxError):
        return annotation  # FastAPI reports that this is not a type


def request_error(error: ValidationError) -> RequestValidationError:
    """Return FastAPI's error for the first `MAX_ERRORS` errors in a body. It becomes a response with status 422.

    pydantic can only convert all errors at once, and a million of them take seconds and a gigabyte. With more than
    `MAX_CONVERTED` errors, only their number is reported.
    """
    if (count := error.error_count()) > MAX_CONVERTED:
        return RequestValidationError([{"type": "too_many_errors", "loc": ("body",), "msg": too_many_errors(count)}])
    found = error.errors(include_url=False)[:MAX_ERRORS]
    return RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in found])


def too_many_errors(count: int) -> str:
    """Return the message for more than `MAX_CONVERTED` validation errors."""
    return f"{count} values in the body are invalid: too many to list"


def return_hint(func: Callable[..., Any], names: Mapping[str, Any]) -> Any:
    """Return a function's return annotation, or None if it has none or cannot be resolved."""
    try:
        hint = inspect.signature(func).return_annotation
        return None if hint is _EMPTY else resolve(func, hint, names)
    except (NameError, UnresolvedError):
        return None


def adapt_handler(
    func: Callable[..., Any],
    app: type,
    method: str,
    schema: type[BaseModel] | None,
    names: Mapping[str, Any],
) -> HandlerAdapter:
    """Return the adapter of an author's function, with the signature that FastAPI sees.

    Args:
        func: The author's function.
        app: The class of the chute.
        method: The HTTP method of the route.
        schema: The model of the body, for a handler whose annotations contain no model.
        names: The local names where the function is defined, which its annotations may use.

    Raises:
        UnresolvedError: An annotation refers to a name that is not defined, or not defined yet.
    """
    try:
        parameters = list(inspect.signature(func).parameters.values())
        chute_first = takes_chute(func, app, names)
    except NameError as error:  # Python 3.14 evaluates annotations on access
        raise UnresolvedError(f"an annotation cannot be resolved: {error}") from None
    if chute_first:
        del parameters[0]
    parameters = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    resolved = [p.replace(annotation=_resolve_hint(func, p, names)) for p in parameters]
    marked, body = _mark_sources(resolved, method, schema)
    # FastAPI calls by keyword, and the order of defaults does not matter for keyword-only parameters.
    signature = [p.replace(kind=p.KEYWORD_ONLY) for p in marked]
    response_parameter = next((p.name for p in signature if _is_response(p.annotation)), "")
    if not response_parameter:  # FastAPI fills in only one such parameter
        signature.append(inspect.Parameter(_ADDED_RESPONSE, inspect.Parameter.KEYWORD_ONLY, annotation=Response))
    return HandlerAdapter(
        takes_chute=chute_first,
        signature=inspect.Signature(signature),
        positional=[p.name for p in parameters if p.kind is p.POSITIONAL_ONLY],
        body=body,
        response_parameter=response_parameter,
    )


def _mark_sources(
    parameters: list[inspect.Parameter], method: str, schema: type[BaseModel] | None
) -> tuple[list[inspect.Parameter], WholeBody | None]:
    """Annotate each parameter with the source of its value. Return also the parameter that takes the whole body."""
    plain = [p for p in parameters if not _is_fastapi_parameter(p)]
    marked = {p.name: p for p in parameters}
    body = None
    if method in BODYLESS:
        marked |= {p.name: _query_parameter(p, is_only=len(plain) == 1, schema=schema) for p in plain}
    elif any(_is_form(p) for p in parameters):
        marked |= {p.name: _with_marker(p, Form()) for p in plain}
    elif len(plain) == 1 and (hint := _whole_body(plain[0], schema)) is not None:
        marked[plain[0].name], body = _take_whole_body(plain[0], hint)
    else:
        marked |= {p.name: _with_marker(p, Body(embed=True)) for p in plain}
    return list(marked.values()), body


def _resolve_hint(func: Callable[..., Any], parameter: inspect.Parameter, names: Mapping[str, Any]) -> Any:
    if parameter.annotation is _EMPTY:
        return _EMPTY
    try:
        return resolve(func, parameter.annotation, names)
    except UnresolvedError as error:
        raise UnresolvedError(f"parameter {parameter.name!r}: {error}") from None


def _is_fastapi_parameter(parameter: inspect.Parameter) -> bool:
    """Return whether FastAPI itself knows the source of the value, from a marker such as `Header` or from the type."""
    hint = parameter.annotation
    if isinstance(parameter.default, _FASTAPI_MARKERS):
        return True
    if get_origin(hint) is Annotated and any(isinstance(each, _FASTAPI_MARKERS) for each in get_args(hint)[1:]):
        return True
    return any(isinstance(kind, type) and issubclass(kind, (*_FASTAPI_TYPES, UploadFile)) for kind in _members(hint))


def _is_response(hint: Any) -> bool:
    return any(isinstance(kind, type) and issubclass(kind, Response) for kind in _members(hint))


def _is_form(parameter: inspect.Parameter) -> bool:
    markers = [parameter.default, *get_args(parameter.annotation)[1:]]
    is_upload = any(isinstance(k, type) and issubclass(k, UploadFile) for k in _members(parameter.annotation))
    return is_upload or any(isinstance(marker, params.Form) for marker in markers)


def _members(hint: Any) -> list[Any]:
    """Return the types in a hint: itself, or the members of a union, of `Annotated` and of `list`."""
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    if get_origin(hint) in (typing.Union, types.UnionType, list):
        return [member for part in get_args(hint) for member in _members(part)]
    return [hint]


def is_model(hint: Any) -> bool:
    """Return whether a hint is a pydantic model, a dataclass, a TypedDict, or a union of them."""
    if get_origin(hint) is list:
        return False
    kinds = [kind for kind in _members(hint) if kind is not type(None)]
    return bool(kinds) and all(
        isinstance(origin := get_origin(kind) or kind, type)
        and (issubclass(origin, BaseModel) or dataclasses.is_dataclass(origin) or is_typeddict(origin))
        for kind in kinds
    )


def _is_dict(hint: Any) -> bool:
    kinds = [get_origin(kind) or kind for kind in _members(hint) if kind is not type(None)]
    return get_origin(hint) is not list and kinds in ([dict], [Mapping], [typing.Mapping])


def _whole_body(parameter: inspect.Parameter, schema: type[BaseModel] | None) -> Any:
    """Return the type of the body if the only parameter is the whole body, or None if it is one field of the body."""
    hint = parameter.annotation
    if hint is _EMPTY or hint is Any:
        return schema or Any
    if _is_dict(hint):
        return hint if schema is None else Annotated[schema, AfterValidator(lambda model: model.model_dump())]
    return hint if is_model(hint) else None


def _take_whole_body(parameter: inspect.Parameter, hint: Any) -> tuple[inspect.Parameter, WholeBody | None]:
    """Mark a parameter as the whole body. A missing body counts as `{}` unless the parameter is optional."""
    if parameter.default is not _EMPTY:
        return _with_marker(parameter.replace(annotation=hint), Body()), None
    is_optional = type(None) in _members(hint)
    body = None if is_optional else WholeBody(parameter.name, TypeAdapter(hint))
    return parameter.replace(annotation=Annotated[hint, Body()], default=None), body


def _query_parameter(
    parameter: inspect.Parameter, *, is_only: bool, schema: type[BaseModel] | None
) -> inspect.Parameter:
    hint = parameter.annotation
    if is_only and (body := _whole_body(parameter, schema)) is not None:
        if body is Any or _is_dict(body):
            depends = Depends(_query)
            return parameter.replace(annotation=Annotated[dict[str, Any], depends], default=_EMPTY)
        hint = body
    return _with_marker(parameter.replace(annotation=hint), Query())


def _query(request: Request) -> dict[str, Any]:
    return dict(request.query_params)


def _with_marker(parameter: inspect.Parameter, marker: Any) -> inspect.Parameter:
    """Annotate a parameter with FastAPI's marker of its source, and with the constraints of a `Field(...)` default."""
    hint = Any if parameter.annotation is _EMPTY else parameter.annotation
    default = parameter.default
    extra: list[Any] = []
    if isinstance(default, FieldInfo):
        extra = list(default.metadata)
        marker.title, marker.description = default.title, default.description
        marker.default_factory = default.default_factory
        default = _EMPTY if default.is_required() or default.default_factory else default.default
    return parameter.replace(annotation=Annotated[hint, *extra, marker], default=default)
