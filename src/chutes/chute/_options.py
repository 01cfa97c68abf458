"""Keyword arguments of Chute, Cord, Job and NodeSelector: other names, checks, and warnings.

Unknown arguments and arguments without effect never break a definition that works on the hosted
platform: they warn.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from fastapi import APIRouter, FastAPI
from fastapi.params import Depends
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import BaseRoute

from chutes._warn import warn, warn_unknown

FASTAPI_OPTIONS = frozenset(inspect.signature(FastAPI.__init__).parameters) - {"self", "extra"}

ALIASES = {
    "max_replicas": "max_instances",
    "min_instances": "min_replicas",
    "scale_down_delay": "shutdown_after_seconds",
}
"""Other names of the chute's own arguments."""


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
    """The keyword arguments of a chute beside those that `Chute` names: FastAPI's, and other names."""

    max_replicas: int
    min_instances: int
    scale_down_delay: int


class NoEffect(NamedTuple):
    """An argument that has no effect: its default, and what holds instead."""

    default: object
    instead: str


NO_EFFECT = {
    # Chute
    "allow_external_egress": NoEffect(default=False, instead="outgoing connections are never restricted"),
    "encrypted_fs": NoEffect(default=False, instead="files are not encrypted"),
    "lock_modules": NoEffect(default=None, instead="Python modules are not locked"),
    "tee": NoEffect(default=False, instead="the chute does not run in a trusted execution environment"),
    # Cord
    "provision_timeout": NoEffect(default=180, instead="no call waits for an instance to be provisioned"),
    # Job
    "ports": NoEffect(default=[], instead="a job may listen on any port of its machine, and none is published"),
    "ssh": NoEffect(default=False, instead="no SSH server is started"),
    "upload": NoEffect(default=True, instead="results always stay on this machine"),
    # NodeSelector
    "max_hourly_price_per_gpu": NoEffect(default=None, instead="your own GPUs have no price"),
}
"""Arguments for the hosted platform, which are kept as attributes and change nothing."""


def warn_without_effect(owner: str, /, **given: object) -> None:
    """Warn of each argument in `NO_EFFECT` that has a value other than its default."""
    for name, value in given.items():
        if value != NO_EFFECT[name].default:
            warn(f"{owner}: {name}={value!r} has no effect: {NO_EFFECT[name].instead}.")


def take_aliases(given: dict[str, Any], settings: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Set the settings that are given under another name, and return the other arguments."""
    for alias, name in ALIASES.items():
        if alias not in given:
            continue
        value = given[alias]
        if settings[name] not in (value, defaults[name]):
            warn(f"Chute: {alias}={value!r} and {name}={settings[name]!r} mean the same; {value!r} is used.")
        settings[name] = value
    # A queue is counted in requests. A part of one is a utilization, as the name means elsewhere.
    queue = settings["scale_up_threshold"]
    if queue is not None and 0 < queue < 1:
        settings["scaling_threshold"], settings["scale_up_threshold"] = queue, None
    return {name: value for name, value in given.items() if name not in ALIASES}


def split(given: Mapping[str, Any], known: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return FastAPI's arguments and the unknown ones, which are warned of."""
    options = {name: given[name] for name in given if name in FASTAPI_OPTIONS}
    unknown = {name: given[name] for name in given if name not in FASTAPI_OPTIONS}
    warn_unknown("Chute", unknown, known | ALIASES.keys() | FASTAPI_OPTIONS)
    return options, unknown


def positive(name: str, value: int | None) -> int | None:
    """Return a limit; raise ValueError unless it is None or a positive integer."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"{name} must be None or a positive integer; got {value!r}.")


def check_parentheses(decorator: str, argument: object, arguments: str = "") -> None:
    """Raise TypeError if a decorator was used without parentheses, so that its argument is the function."""
    if callable(argument):
        name = getattr(argument, "__name__", "function")
        raise TypeError(f"@chute.{decorator} needs parentheses. Write @chute.{decorator}({arguments}) above {name!r}.")


def check_keywords_only(decorator: str, argument: object, arguments: str = "") -> None:
    """Raise TypeError if a decorator that takes keyword arguments only was given a positional one."""
    check_parentheses(decorator, argument, arguments)
    if argument is not None:
        raise TypeError(f"@chute.{decorator} takes keyword arguments only; got {argument!r}.")
