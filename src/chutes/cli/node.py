"""`chutes node`: this machine as a part of a cluster."""

import os
from typing import Annotated

import typer

from chutes.cli._console import fail, say

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make this machine part of a cluster.")


@app.callback()
def node() -> None:
    """Make this machine part of a cluster."""


@app.command()
def start(
    *,
    head: Annotated[bool, typer.Option("--head", help="Begin a cluster; the others join this node.")] = False,
    address: Annotated[str | None, typer.Option(help="The head to join, HOST:PORT.")] = None,
    cluster_port: Annotated[
        int, typer.Option(help="Port on which the head takes other nodes; 0 takes any.", min=0, max=65535)
    ] = 6379,
    node_ip: Annotated[str | None, typer.Option(help="The address of this machine that others can reach.")] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address on which the head takes requests.", show_default="CHUTES_HOST, else 127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port on which the head takes requests.", min=1, max=65535, show_default="CHUTES_PORT, or 8000"
        ),
    ] = None,
    pretend_gpus: Annotated[
        str | None, typer.Option(metavar="KIND:GB,...", help="For tests: say that these cards are here, as h100:80.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", hidden=True)] = False,
) -> None:
    """Be a node of a cluster until Ctrl-C or SIGTERM, with the GPUs of this machine."""
    if head == (address is not None):
        fail("Say --head to begin a cluster, or --address HOST:PORT to join one.")
    from chutes.deploy import cluster, placement
    from chutes.server import Settings

    try:
        gpus = placement.pretended(pretend_gpus) if pretend_gpus else placement.installed()
    except ValueError as error:
        fail(f"--pretend-gpus: {error}.")
    labels, environment = {}, dict(cluster.ENVIRONMENT)
    if head:
        settings = Settings()
        labels[cluster.HTTP_HOST] = host or settings.host
        labels[cluster.HTTP_PORT] = str(port or settings.port)
    if local:
        labels[cluster.LOCAL] = str(os.getpid())
        cluster_port = 0
        environment |= cluster.LOCAL_ENVIRONMENT
    cluster.use_token(create=head)
    say(f"This node has {', '.join(str(gpu) for gpu in gpus) or 'no GPU'}")
    command = cluster.node_command(
        address=address, cluster_port=cluster_port, node_ip=node_ip, gpus=gpus, labels=labels
    )
    os.execve(command[0], command, {**os.environ, **environment})  # noqa: S606 - this process becomes the node
