"""Terminal output of all commands: results go to stdout, notes and one-line errors to stderr."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from chutes import _extras
from chutes._text import printable, printable_lines

if TYPE_CHECKING:
    from chutes.server.settings import Settings


def note(message: str) -> None:
    """Print a note for a person on stderr, so that stdout holds nothing but results."""
    typer.secho(printable_lines(message), err=True)


def fail(reason: str | Exception, code: int = 1) -> NoReturn:
    """Print `Error: REASON.` as one line on stderr, and end the command with an exit code."""
    line = printable(" ".join(str(reason).split()))
    if not line.endswith((".", "?", "!")):
        line += "."
    label = typer.style("Error:", fg=typer.colors.RED, bold=True) if sys.stderr.isatty() else "Error:"
    typer.echo(f"{label} {line}", err=True)
    raise typer.Exit(code)


def require(module: str) -> None:
    """End the command if a module of an optional extra is not installed."""
    if not _extras.is_installed(module):
        fail(f"This command needs the package {module}, which is not installed. {_extras.install_hint(module)}")


def load_settings(replica_environment: Mapping[str, str] | None = None, **options: Any) -> "Settings":
    """Return the server's settings, or end the command if one of them is invalid.

    Options win over the environment of a replica, which wins over the environment of this process.
    """
    from pydantic import ValidationError

    from chutes.server.settings import Settings, settings_from_environment

    try:
        return Settings(**{**settings_from_environment(replica_environment or {}), **options})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        source = f"--{name.replace('_', '-')}" if name in options else f"CHUTES_{name.upper()}"
        fail(f"{source} is {first['input']!r}: {first['msg']}")


def format_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit, such as `33.7 GB`."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"
