"""`chutes export`: export a chute as a Kubernetes manifest."""

from pathlib import Path
from typing import Annotated

import typer

from chutes.cli import COMMANDS
from chutes.cli._console import fail, load_settings, note, require
from chutes.cli._options import ChuteRef

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="markdown")


@app.callback(help=COMMANDS["export"])
def export() -> None:
    """Keep `kuberay` a subcommand: Typer would otherwise make the only command the default."""


@app.command()
def kuberay(
    ref: ChuteRef,
    *,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:TAG",
            help="Container image to run.",
            show_default="the image that `chutes build` makes, with the suffix -ray",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write rayservice.yaml and the Dockerfile of the image into this folder."),
    ] = None,
) -> None:
    """Export a RayService manifest for the KubeRay operator.

    The manifest holds the same settings that `chutes deploy` would give the chute. It never holds API keys: they come
    from a Kubernetes Secret. Without --output the manifest is printed.
    """
    require("ray")  # the manifest names its version
    from chutes.deploy import application, package
    from chutes.deploy import kuberay as manifests
    from chutes.exception import LoadError
    from chutes.loader import load_chute
    from chutes.server.keys import unreadable_keys

    load_settings()  # the replicas get these settings, so reject an invalid one here
    try:
        chute = load_chute(ref)
        packed = package.pack(ref)
    except LoadError as error:
        fail(error)
    try:
        spec = application.spec_for(chute, packed, ray_options={})
    except (OSError, ValueError) as error:
        fail(unreadable_keys(error))
    manifest = manifests.manifest(chute, spec, image=image)
    if output is None:
        typer.echo(manifest, nl=False)
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "rayservice.yaml").write_text(manifest, encoding="utf-8")
        (output / "Dockerfile").write_text(manifests.dockerfile(chute), encoding="utf-8")
    except OSError as error:
        fail(f"Cannot write {error.filename or output}: {error.strerror}. Name another folder with --output.")
    note(f"Wrote rayservice.yaml and Dockerfile to {output}.")
