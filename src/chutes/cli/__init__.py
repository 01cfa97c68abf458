"""The command line: `chutes COMMAND`, one module per command.

To add a command, add its line to COMMANDS below and a module of the same name beside this file, with

    app = typer.Typer(add_completion=False)

    @app.command()
    def name(...) -> None:
        \"\"\"What `chutes name --help` says.\"\"\"

or several commands on that `app` for a group such as `chutes keys create`. The module is imported only when
its command is called, and the libraries it needs only when it does its work: `chutes --help` reads this file
and no other. A command that cannot do its work says so through `chutes.cli._console.fail`.
"""

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from chutes._version import version

COMMANDS = {
    "init": "Write a new chute, ready to run.",
    "run": "Serve a chute on this machine.",
    "build": "Build a chute's container image.",
    "download": "Fetch a model into the hub's cache.",
    "keys": "Make, list and delete API keys.",
    "deploy": "Put a chute on a cluster.",
    "chutes": "See and change what runs on a cluster.",
    "node": "Make this machine part of a cluster.",
    "export": "Write a chute as a manifest for Kubernetes.",
}


class LazyGroup(TyperGroup):
    """Knows its commands by name and help, and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, text in COMMANDS.items():
            self.add_command(TyperCommand(name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that was called, its module imported in the place of the stand-in."""
        if args[0] in COMMANDS:
            module = import_module(f"{__name__}.{args[0]}")
            command = typer.main.get_command(module.app)
            self.add_command(command, args[0])
        return super().resolve_command(ctx, args)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"chutes {version}\n")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    name="chutes",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug's traceback, without the values of its variables
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Write a GPU inference service as decorated Python, and run it on your own machines."""
