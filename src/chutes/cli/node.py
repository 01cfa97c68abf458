"""`chutes node`: this machine as a part of a cluster."""

import ipaddress
import os
import signal
import subprocess
from typing import Annotated, NoReturn

import typer

from chutes.cli._console import fail, say, settings

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
    fake_gpus: Annotated[
        str | None, typer.Option(metavar="KIND:GB,...", help="For tests: say that these cards are here, as h100:80.")
    ] = None,
    local: Annotated[bool, typer.Option("--local", hidden=True)] = False,
) -> None:
    """Be a node of a cluster until Ctrl-C or SIGTERM, with the GPUs of this machine."""
    if head == (address is not None):
        fail("Say --head to begin a cluster, or --address HOST:PORT to join one.")
    from chutes._gpus import installed_gpus
    from chutes.deploy import cluster, placement

    if node_ip is not None:
        _check_ip("--node-ip", node_ip)
    if address is not None and cluster.find(address) is None:
        fail(f"No cluster answers at {address}: write the head's address as HOST:PORT.")
    try:
        gpus = placement.fake_gpus(fake_gpus) if fake_gpus else installed_gpus()
    except ValueError as error:
        fail(f"--fake-gpus: {error}.")
    labels, environment = {}, dict(cluster.ENVIRONMENT)
    if head:
        environment |= cluster.HEAD_ENVIRONMENT
        given = settings()
        http = host or given.host, port or given.port
        labels[cluster.HTTP_HOST], labels[cluster.HTTP_PORT] = http[0], str(http[1])
        _check_free(*http)
        _check_free("0.0.0.0", 0 if local else cluster_port)  # noqa: S104 - as Ray does
    if local:
        labels[cluster.LOCAL] = str(os.getpid())
        environment |= cluster.LOOPBACK_ENVIRONMENT
        cluster_port = 0
    cluster.use_token(create=head)
    if address is not None:
        try:
            cluster.check_access(address)
        except cluster.NoCluster as error:
            fail(f"{error}.")
    say(f"This node has {', '.join(str(gpu) for gpu in gpus) or 'no GPU'}")
    command = cluster.node_command(
        address=address, cluster_port=cluster_port, node_ip=node_ip, gpus=gpus, labels=labels
    )
    _run(command, {**os.environ, **environment}, group=None if local else 0)


def _check_ip(option: str, value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        fail(f"{option}: {value!r} is not an IP address.")


def _check_free(host: str, port: int) -> None:
    from chutes.server.process import PortInUse, bind

    try:
        bind(host, port).close()
    except PortInUse as error:
        fail(f"{error}.")


def _run(command: list[str], environment: dict[str, str], *, group: int | None) -> NoReturn:
    """Run the node until it ends, or this process is told to stop: then it leaves in good order, with code 0.

    `group` 0 is one of its own: a terminal's Ctrl-C goes to a whole group, and Ray's processes would just be gone.
    """
    node: subprocess.Popen[bytes] | None = None
    told = False

    def stop(*_: object) -> None:
        nonlocal told
        told = True
        if node is not None:
            node.terminate()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the last when a terminal closes
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)
    node = subprocess.Popen(command, env=environment, process_group=group)  # noqa: S603 - our own words
    if told:
        node.terminate()
    code = node.wait()
    raise typer.Exit(0 if told else code if code >= 0 else 128 - code)
