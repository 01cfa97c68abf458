"""Keyword arguments of Chute, Cord, Job and NodeSelector: aliases, checks and warnings.

Unknown arguments and arguments without effect cause warnings, not errors. So a definition that was written for the
hosted platform works unchanged.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from fastapi import APIRouter, FastAPI
from fastapi.params import Depends
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import BaseRoute
from typing_extensions import TypeIs

from chutes._warn import warn, warn_unknown

FASTAPI_OPTIONS = frozenset(inspect.signature(FastAPI.__init__).parameters) - {"self", "extra"}

ALIASES = {
    "max_replicas": "max_instances",
    "min_instances": "min_replicas",
    "scale_down_delay": "shutdown_after_seconds",
}
"""Aliases of Chute's arguments."""


class FastAPIOptions(TypedDict, total=False):
    """The keyword arguments of `fastapi.FastAPI`."""

    debug: bool
    routes: list[BaseRoute] | None
    title: str
    summary: str | None
    description: str
    version: str
    openapi_url: str | None
    openapi_tags: list[dict[str, Any]] | None
    servers: list[dict[str, str | Any]] | None
    dependencies: Sequence[Depends] | None
    default_response_class: type[Response]
    redirect_slashes: bool
    docs_url: str | None
    redoc_url: str | None
    swagger_ui_oauth2_redirect_url: str | None
    swagger_ui_init_oauth: dict[str, Any] | None
    middleware: Sequence[Middleware] | None
    exception_handlers: Mapping[Any, Callable[..., Any]] | None
    on_startup: Sequence[Callable[[], Any]] | None
    on_shutdown: Sequence[Callable[[], Any]] | None
    lifespan: Callable[[Any], Any] | None
    terms_of_service: str | None
    contact: dict[str, str | Any] | None
    license_info: dict[str, str | Any] | None
    root_path: str
    root_path_in_servers: bool
    responses: dict[int | str, dict[str, Any]] | None
    callbacks: list[BaseRoute] | None
    webhooks: APIRouter | None
    deprecated: bool | None
    include_in_schema: bool
    swagger_ui_parameters: dict[str, Any] | None
    generate_unique_id_function: Callable[[Any], str]
    separate_input_output_schemas: bool
    openapi_external_docs: dict[str, Any] | None
    strict_content_type: bool
    max_body_size: int | None
    form_limits: Any
    telemetry: Any


class ChuteOptions(FastAPIOptions, total=False):
    """The `**options` of `Chute`: FastAPI's keyword arguments, and aliases of Chute's own."""

    max_replicas: int
    min_instances: int
    scale_down_delay: int


class NoEffect(NamedTuple):
    """An argument that has no effect: its default, and the explanation in the warning."""

    default: object
    explanation: str


NO_EFFECT = {
    # Chute
    "allow_external_egress": NoEffect(default=False, explanation="outgoing connections are never restricted"),
    "encrypted_fs": NoEffect(default=False, explanation="files are not encrypted"),
    "lock_modules": NoEffect(default=None, explanation="Python modules are not locked"),
    "tee": NoEffect(default=False, explanation="the chute does not run in a trusted execution environment"),
    # Cord
    "provision_timeout": NoEffect(default=180, explanation="no call waits for an instance to be provisioned"),
    # Job
    "ports": NoEffect(default=[], explanation="a job may listen on any port of its machine, and none is published"),
    "ssh": NoEffect(default=False, explanation="no SSH server is started"),
    "upload": NoEffect(default=True, explanation="results always stay on this machine"),
    # NodeSelector
    "max_hourly_price_per_gpu": NoEffect(default=None, explanation="your own GPUs have no price"),
}
"""Arguments that only the hosted platform uses. They are stored as attributes."""


def warn_without_effect(owner: str, /, **given: object) -> None:
    """Warn about each argument in `NO_EFFECT` that has a value other than its default."""
    for name, value in given.items():
        if value != NO_EFFECT[name].default:
            warn(f"{owner}: {name}={value!r} has no effect: {NO_EFFECT[name].explanation}.")


def scaling_options(own: Mapping[str, Any], defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of Chute's scaling arguments, of which some may be given under an alias.

    Args:
        own: The values of the arguments under their own names.
        defaults: The defaults of these arguments.
        given: Other keyword arguments, which may contain aliases.

    Raises:
        ValueError: A value has a wrong type or is out of range.
    """
    values = dict(own)
    for name, value in own.items():
        _check_scaling(name, name, value)
    for alias, name in ALIASES.items():
        if alias in given:
            value = given[alias]
            _check_scaling(alias, name, value)
            if own[name] not in (value, defaults[name]):
                warn(f"Chute: {alias}={value!r} and {name}={own[name]!r} mean the same; {value!r} is used.")
            values[name] = value
    # A number below 1 cannot count queued requests, so it is a utilization, which some platforms give this name.
    threshold = values["scale_up_threshold"]
    if threshold is not None and threshold < 1:
        values["scaling_threshold"], values["scale_up_threshold"] = threshold, None
    return values


def _check_scaling(name: str, rule: str, value: object) -> None:
    """Raise ValueError if the value of a scaling argument is invalid.

    Args:
        name: The name that the author used, possibly an alias. The message contains it.
        rule: The argument's own name, which selects the rule.
        value: The value to check.
    """
    label = f"Chute {name}"
    match rule:
        case "max_instances":
            check_integer(label, value, 1)
        case "min_replicas" | "shutdown_after_seconds":
            check_integer(label, value, 0)
        case "scaling_threshold":
            if not (_is_number(value) and 0 < value <= 1):
                raise ValueError(f"{label} must be a number above 0 and up to 1; got {value!r}.")
        case "scale_up_threshold":
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{label} must be None or a number above 0; got {value!r}.")


def split_options(given: Mapping[str, Any], known: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return FastAPI's arguments and the unknown arguments. Warn about the unknown ones."""
    options = {name: given[name] for name in given if name in FASTAPI_OPTIONS}
    unknown = {name: given[name] for name in given if name not in FASTAPI_OPTIONS | ALIASES.keys()}
    warn_unknown("Chute", unknown, known | ALIASES.keys() | FASTAPI_OPTIONS)
    return options, unknown


def check_integer(
    name: str, value: object, minimum: int, maximum: int | None = None, *, optional: bool = False
) -> None:
    """Raise ValueError unless a value is an integer in a range, or None if it is `optional`."""
    if optional and value is None:
        return
    if type(value) is int and value >= minimum and (maximum is None or value <= maximum):
        return
    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    raise ValueError(f"{name} must be {'None or ' if optional else ''}an integer {bounds}; got {value!r}.")


def _is_number(value: object) -> TypeIs[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_parentheses(decorator: str, argument: object, example: str = "") -> None:
    """Raise TypeError if a decorator is used without parentheses, which makes the function its argument.

    The message shows the decorator with the arguments in `example`.
    """
    if callable(argument):
        name = getattr(argument, "__name__", "function")
        raise TypeError(f"@chute.{decorator} needs parentheses. Write @chute.{decorator}({example}) above {name!r}.")


def check_keywords_only(decorator: str, argument: object, example: str = "") -> None:
    """Raise TypeError if a decorator gets a positional argument or is used without parentheses."""
    check_parentheses(decorator, argument, example)
    if argument is not None:
        raise TypeError(f"@chute.{decorator} takes keyword arguments only; got {argument!r}.")
