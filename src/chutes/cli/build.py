"""`chutes build`: build a chute's container image from a folder that any Docker engine can build."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chutes.cli._console import fail, note
from chutes.cli._options import ChuteRef

if TYPE_CHECKING:
    from chutes.cli._build_context import AuthorFiles

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def build(
    ref: ChuteRef,
    *,
    only_print: Annotated[bool, typer.Option("--print", help="Print the Dockerfile and write no files.")] = False,
    context: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the build context.", show_default="build/NAME-TAG"),
    ] = None,
    include_cwd: Annotated[
        bool,
        typer.Option("--include-cwd", help="Copy every file of the chute's folder, not only the modules it imports."),
    ] = False,
) -> None:
    """Write a Docker build context for a chute, build its image, and print the image's name.

    The directives of the chute's Image come first. They are followed by this package, and by the chute's module with
    the modules that it imports from its folder.

    Without a Docker engine, the build context is still written. The command then shows how to build the image on
    another machine, and exits with 1.
    """
    from chutes.cli import _build_context
    from chutes.exception import BuildContextError, LoadError
    from chutes.loader import load_chute

    try:
        chute = load_chute(ref)
        author = _author_files(ref, include_cwd=include_cwd)
    except LoadError as error:
        fail(error)
    image = chute.image
    if isinstance(image, str):
        fail(f"{chute.name} uses the existing image {image}, so there is nothing to build.")
    if only_print:
        typer.echo(_build_context.dockerfile(str(image), author), nl=False)
        return
    folder = context or Path("build") / f"{image.name}-{image.tag}"
    try:
        _build_context.write(folder, image, author)
    except BuildContextError as error:
        fail(error)
    except OSError as error:
        fail(f"Cannot write {error.filename or folder}: {error.strerror}. Name another folder with --context.")
    note(f"Wrote the Dockerfile and {len(author.files)} of your files to {folder}.")
    _run_docker(folder, f"{image.username}/{image.name}:{image.tag}".lower())


def _author_files(ref: str, *, include_cwd: bool) -> "AuthorFiles":
    """Return the author's files. The chute must be loaded, because its imports determine the files."""
    from chutes.cli import _build_context
    from chutes.deploy import package
    from chutes.loader import parse_reference

    source = parse_reference(ref)
    files = _build_context.all_files(source.root) if include_cwd else package.files_of(source)
    return _build_context.AuthorFiles(source.root, tuple(sorted(files)), source.entry)


def _run_docker(folder: Path, tag: str) -> None:
    """Build the image and print its name. Without a Docker engine, fail with the command that builds it elsewhere."""
    command = ["docker", "build", "--platform", "linux/amd64", "--tag", tag, str(folder)]
    hint = f"so the image was not built. Build it on a machine with Docker: `{shlex.join(command)}`."
    docker = shutil.which("docker")
    if docker is None:
        fail(f"Docker is not installed, {hint}")
    probe = subprocess.run(  # noqa: S603 - no shell, no input from outside
        [docker, "version"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        fail(f"The Docker engine does not answer, {hint}")
    code = subprocess.run([docker, *command[1:]], check=False).returncode  # noqa: S603 - as above
    if code != 0:
        fail(f"docker build failed with exit code {code}. The build context is in {folder}.")
    typer.echo(tag)
