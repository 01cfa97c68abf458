"""`chutes build`: a chute's container image, by way of a folder that any docker can build from."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chutes.cli._console import fail, say

if TYPE_CHECKING:
    from chutes.cli._context import Author

app = typer.Typer(add_completion=False)


@app.command()
def build(
    ref: Annotated[
        str, typer.Argument(help="module:name, a dotted module, or a file; the name is chute if not given.")
    ],
    *,
    only_print: Annotated[bool, typer.Option("--print", help="Print the Dockerfile, and write nothing.")] = False,
    context: Annotated[Path | None, typer.Option(help="The folder to write.", show_default="build/NAME-TAG")] = None,
    include_cwd: Annotated[
        bool, typer.Option("--include-cwd", help="Take every file of the chute's folder, not only what it imports.")
    ] = False,
) -> None:
    """Write the Dockerfile and everything it needs into a folder, and build the image if there is an engine.

    In the image are its own directives, this package, and the chute's module with what it imports from its folder.
    """
    from chutes.cli import _context
    from chutes.exception import LoadError
    from chutes.loader import load_chute

    try:
        chute = load_chute(ref)
        author = _author(ref, include_cwd=include_cwd)
    except LoadError as error:
        fail(str(error))
    image = chute.image
    if isinstance(image, str):
        fail(f"{chute.name} uses the image {image}, which is built already: there is nothing to build.")
    if only_print:
        typer.echo(_context.dockerfile(str(image), author), nl=False)
        return
    folder = context or Path("build") / f"{image.name}-{image.tag}"
    try:
        _context.write(folder, image, author)
    except _context.ContextError as error:
        fail(f"{error}.")
    except OSError as error:
        fail(f"{error.filename or folder} cannot be written: {error.strerror}.")
    say(f"Wrote {folder}: {len(author.files)} of your files, and the Dockerfile")
    _run_docker(folder, f"{image.username}/{image.name}:{image.tag}".lower())


def _author(ref: str, *, include_cwd: bool) -> "Author":
    """The author's files, after the chute has been loaded from them."""
    from chutes.cli import _context
    from chutes.deploy import package
    from chutes.loader import parse

    source = parse(ref)
    files = _context.all_of(source.root) if include_cwd else package.files_of(source)
    return _context.Author(source.root, tuple(sorted(files)), source.entry)


def _run_docker(folder: Path, tag: str) -> None:
    """Build, or say plainly that nothing was built and how to do it."""
    command = ["docker", "build", "--platform", "linux/amd64", "--tag", tag, str(folder)]
    later = f"the image was not built; where there is an engine, run: {shlex.join(command)}"
    docker = shutil.which("docker")
    if docker is None:
        fail(f"There is no docker here, so {later}")
    probe = subprocess.run(  # noqa: S603 - no shell, and our own words
        [docker, "version"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        fail(f"docker's engine does not answer, so {later}")
    code = subprocess.run([docker, *command[1:]], check=False).returncode  # noqa: S603 - as above
    if code != 0:
        fail(f"docker build ended with {code}; what it was given is in {folder}.")
    typer.echo(tag)
