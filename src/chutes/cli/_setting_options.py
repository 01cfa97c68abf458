"""The options of `chutes run` that are settings of the server, generated from the `Settings` class."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_origin

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
    is_list = get_origin(field.annotation) is tuple
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar="A,B,..." if is_list else None,
        help=field.description,
        show_default=_format(field.default),
        rich_help_panel="Settings",
    )
    kind: Any = str if is_list else field.annotation
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _format(default: object) -> str | bool:
    """Return a default as the help text shows it, or False to show none."""
    if default is False or default == ():
        return False
    return f"{default:g}" if isinstance(default, float) else str(default)
