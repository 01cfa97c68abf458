"""The command line: `chutes COMMAND`, one module per command.

To add a command, add its line to COMMANDS below and a module of the same name beside this file, with

    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

    @app.command()
    def name(...) -> None:
        \"\"\"The help text of `chutes name --help`.\"\"\"

or with several commands on that `app` for a group such as `chutes keys create`. Options that commands share are in
`chutes.cli._options`. A command that cannot do its work ends through `chutes.cli._console.fail`.

Imports are lazy, so that the command line starts fast. `chutes --help` imports this file alone, a command's module is
imported when the command is called, and a command imports its libraries when it needs them.
"""

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from chutes._version import version

COMMANDS = {
    "init": "Write a new chute that is ready to run.",
    "run": "Serve a chute on this machine.",
    "build": "Build the container image of a chute.",
    "download": "Download a model into the Hugging Face cache.",
    "keys": "Create, list and delete API keys.",
    "deploy": "Deploy a chute on a cluster.",
    "chutes": "Inspect and manage the chutes on a cluster.",
    "node": "Run this machine as a node of a cluster.",
    "export": "Export a chute as a Kubernetes manifest.",
}


class LazyGroup(TyperGroup):
    """A group that lists its commands without importing them, and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, text in COMMANDS.items():
            self.add_command(TyperCommand(name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Replace the placeholder of the called command by the command itself, then resolve it."""
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
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # the traceback of a bug must not show the values of variables, such as keys
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
