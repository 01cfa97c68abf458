"""`chutes node`: run this machine as a node of a cluster."""

import ipaddress
import os
import signal
import subprocess
from typing import Annotated, NoReturn

import typer

from chutes.cli import COMMANDS
from chutes.cli._console import fail, load_settings, note, require

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="markdown")


@app.callback(help=COMMANDS["node"])
def node() -> None:
    """Keep `start` a subcommand: Typer would otherwise make the only command the default."""


@app.command()
def start(
    *,
    head: Annotated[
        bool, typer.Option("--head", help="Start a new cluster with this machine as its head node.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Join the cluster of the head node at this address.")
    ] = None,
    cluster_port: Annotated[
        int,
        typer.Option(help="Port on which the head node accepts other nodes; 0 picks a free port.", min=0, max=65535),
    ] = 6379,
    node_ip: Annotated[
        str | None, typer.Option(metavar="IP", help="IP address at which other nodes reach this machine.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address on which the head node serves HTTP.", show_default="CHUTES_HOST, or 127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Port on which the head node serves HTTP.", min=1, max=65535, show_default="CHUTES_PORT, or 8000"
        ),
    ] = None,
    fake_gpus: Annotated[
        str | None,
        typer.Option(metavar="KIND:GB,...", help="Report these GPUs instead of the real ones, for tests."),
    ] = None,
    local: Annotated[bool, typer.Option("--local", hidden=True)] = False,
) -> None:
    """Run a node with the GPUs of this machine until Ctrl-C or SIGTERM.

    Choose either --head or --address.
    """
    require("ray")
    if head == (address is not None):
        fail("Choose either --head to start a cluster, or --address HOST:PORT to join one.")
    from chutes._gpus import installed_gpus
    from chutes.deploy import cluster, placement
    from chutes.exception import NoCluster

    if node_ip is not None:
        _check_ip("--node-ip", node_ip)
    if address is not None and cluster.find(address) is None:
        fail(f"No cluster answers at {address}. Set --address to the HOST:PORT of the head node.")
    try:
        gpus = placement.fake_gpus(fake_gpus) if fake_gpus else installed_gpus()
    except ValueError as error:
        fail(f"--fake-gpus is invalid: {error}")
    labels: dict[str, str] = {}
    environment = dict(cluster.ENVIRONMENT)
    if head:
        environment |= cluster.HEAD_ENVIRONMENT
        settings = load_settings()
        http_host, http_port = host or settings.host, port or settings.port
        labels |= {cluster.HTTP_HOST_LABEL: http_host, cluster.HTTP_PORT_LABEL: str(http_port)}
        _check_port(http_host, http_port)
        _check_port("0.0.0.0", 0 if local else cluster_port)  # noqa: S104 - where Ray listens
    if local:
        labels[cluster.LOCAL_LABEL] = str(os.getpid())
        environment |= cluster.LOOPBACK_ENVIRONMENT
        cluster_port = 0
    cluster.enable_token_auth(create=head)
    if address is not None:
        try:
            cluster.check_access(address)
        except NoCluster as error:
            fail(error)
    note(f"GPUs of this node: {', '.join(str(gpu) for gpu in gpus) or 'none'}")
    command = cluster.node_command(
        address=address, cluster_port=cluster_port, node_ip=node_ip, gpus=gpus, labels=labels
    )
    _run(command, {**os.environ, **environment}, process_group=None if local else 0)


def _check_ip(option: str, value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        fail(f"{option} must be an IP address such as 10.0.0.5; got {value!r}.")


def _check_port(host: str, port: int) -> None:
    from chutes.exception import AddressUnavailable
    from chutes.server.process import bind

    try:
        bind(host, port).close()
    except AddressUnavailable as error:
        fail(error)


def _run(command: list[str], environment: dict[str, str], *, process_group: int | None) -> NoReturn:
    """Run the node's command until it exits. A signal stops it gracefully, with exit code 0.

    A `process_group` of 0 gives the command a process group of its own. Then Ctrl-C on the terminal signals only this
    process, which stops Ray gracefully. Otherwise Ctrl-C would kill Ray's processes.
    """
    process: subprocess.Popen[bytes] | None = None
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        if process is not None:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a closing terminal sends SIGHUP
        if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` has SIGHUP ignored
            signal.signal(number, stop)
    process = subprocess.Popen(command, env=environment, process_group=process_group)  # noqa: S603 - no input from outside
    if stopped:
        process.terminate()
    code = process.wait()
    raise typer.Exit(0 if stopped else code if code >= 0 else 128 - code)
