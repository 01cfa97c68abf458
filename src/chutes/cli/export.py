"""`chutes export`: a chute as a manifest for Kubernetes."""

from pathlib import Path
from typing import Annotated

import typer

from chutes.cli._console import fail, say, settings

app = typer.Typer(add_completion=False)


@app.command()
def export(
    ref: Annotated[
        str, typer.Argument(help="module:name, a dotted module, or a file; the name is chute if not given.")
    ],
    *,
    to_kuberay: Annotated[bool, typer.Option("--kuberay", help="A RayService, for the KubeRay operator.")] = False,
    image: Annotated[
        str | None, typer.Option(help="The image to run.", show_default="the one that `chutes build` makes, and -ray")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write rayservice.yaml and the image's Dockerfile into this folder.")
    ] = None,
) -> None:
    """Print a chute as a manifest for Kubernetes, with the settings that `chutes deploy` would give it."""
    if not to_kuberay:
        fail("Say what for: --kuberay is what there is.")
    from chutes.deploy import application, kuberay, package
    from chutes.exception import LoadError
    from chutes.loader import load_chute

    settings()  # replicas get those of the environment: a wrong one is told now
    try:
        chute = load_chute(ref)
        spec = application.spec_for(chute, package.pack(ref), ray_options={})
    except LoadError as error:
        fail(str(error))
    except (OSError, ValueError) as error:
        fail(f"The API keys cannot be read: {error}.")
    text = kuberay.manifest(chute, spec, image=image)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "rayservice.yaml").write_text(text, encoding="utf-8")
        (output / "Dockerfile").write_text(kuberay.dockerfile(chute), encoding="utf-8")
    except OSError as error:
        fail(f"{error.filename or output} cannot be written: {error.strerror}.")
    say(f"Wrote rayservice.yaml and Dockerfile into {output}")
