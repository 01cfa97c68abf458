"""The options of `chutes run` that are settings of the server, generated from the `Settings` class."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from chutes.server.settings import Settings

_WITHOUT_OPTION = {"api_keys"}  # any user of the machine can read the command line with `ps`


def with_setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the `**settings` of a command by one option for each setting of the server, except for API keys.

    The setting's description is the help text. An option that is not given is None.
    """
    signature = inspect.signature(command)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [_option(name, field) for name, field in Settings.model_fields.items() if name not in _WITHOUT_OPTION]
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return command


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    kind: Any = field.annotation
    metavar, text = None, field.description or ""
    if get_origin(kind) is tuple:
        kind, metavar = str, "A,B,..."
    elif get_origin(kind) is Literal:  # the choices would be too wide for their column
        metavar, text = "NAME", f"{text} One of {', '.join(get_args(kind))}."
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=metavar,
        help=text + _default(field.default),
        rich_help_panel="Settings",
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _default(default: object) -> str:
    """Return a default in Typer's format. Typer's own `show_default` would put a text into parentheses."""
    if default is False or default == ():
        return ""
    return f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"
