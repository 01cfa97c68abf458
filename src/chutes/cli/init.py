"""`chutes init`: a new chute that runs at once, to be changed from there."""

import importlib.util
import keyword
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from chutes.cli._console import fail, say

app = typer.Typer(add_completion=False)


@app.command()
def init(name: Annotated[str, typer.Argument(help="The chute's name, such as my-image-gen.")]) -> None:
    """Write NAME.py into the current folder: pictures from text, over HTTP.

    It runs as it is, also on a laptop without a GPU. Nothing is overwritten.
    """
    module = name.removesuffix(".py").replace("-", "_").lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", module) or keyword.iskeyword(module):
        fail(f"{name!r} cannot be a module's name: use up to 100 letters, digits and dashes, such as my-image-gen.")
    path = Path(f"{module}.py")
    if path.exists():
        fail(f"{path} is there already: choose another name, or move it away.")
    if importlib.util.find_spec(module):
        fail(f"{path} would hide a module named {module} that Python has already: choose another name.")
    text = files("chutes.cli").joinpath("template.py.txt").read_text(encoding="utf-8")
    text = text.replace("{{module}}", module).replace("{{name}}", module.replace("_", "-"))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.")
    typer.echo(path)
    say(f"Serve it with: chutes run {module}")
