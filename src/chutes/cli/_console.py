"""What the commands say: results on stdout, everything else on stderr, errors in one line with what to do."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from chutes._text import printable, printable_lines

if TYPE_CHECKING:
    from chutes.server.settings import Settings


def say(message: str) -> None:
    """A remark for the person at the terminal, on stderr, so that stdout holds results alone."""
    typer.secho(printable_lines(message), err=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with one line on stderr and an exit code."""
    line = printable(" ".join(message.split()))
    label = typer.style("Error:", fg=typer.colors.RED, bold=True) if sys.stderr.isatty() else "Error:"
    typer.echo(f"{label} {line}", err=True)
    raise typer.Exit(code)


def settings(environment: Mapping[str, str] | None = None, **given: Any) -> "Settings":
    """The server's settings, from options, a replica's environment, and this one; a wrong one ends the command."""
    from pydantic import ValidationError

    from chutes.server.settings import Settings, settings_from_environment

    try:
        return Settings(**{**settings_from_environment(environment or {}), **given})
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0]) if wrong["loc"] else ""
        where = f"--{name.replace('_', '-')}" if name in given else f"CHUTES_{name.upper()}"
        fail(f"{where} is {wrong['input']!r}: {wrong['msg']}.")


def size(count: float) -> str:
    """Bytes as people read them: `33.7 GB`."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"
