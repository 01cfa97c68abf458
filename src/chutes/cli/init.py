"""`chutes init`: write a new chute to start from."""

import importlib.util
import keyword
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from chutes.cli._console import fail, note

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def init(name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the chute, such as my-image-gen.")]) -> None:
    """Write NAME.py, a text-to-image service, into the current folder.

    The chute runs as it is, also on a laptop without a GPU. An existing file is never overwritten.
    """
    module = name.removesuffix(".py").replace("-", "_").lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", module) or keyword.iskeyword(module):
        fail(
            f"{name!r} cannot be used as a module name. Use a letter, then up to 99 letters, digits and dashes, "
            "such as my-image-gen."
        )
    path = Path(f"{module}.py")
    if path.exists():
        fail(f"{path} already exists. Choose another name, or move the file away.")
    if importlib.util.find_spec(module):
        fail(f"{path} would hide the installed module {module!r}. Choose another name.")
    text = files("chutes.cli").joinpath("template.py.txt").read_text(encoding="utf-8")
    text = text.replace("{{module}}", module).replace("{{name}}", module.replace("_", "-"))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        fail(f"Cannot write {path.resolve()}: {error.strerror}. Run the command in a folder that you can write to.")
    typer.echo(path)
    note(f"To serve it, run: chutes run {module}")
