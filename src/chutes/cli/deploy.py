"""`chutes deploy`: deploy a chute on a cluster, and start one on this machine if none is running."""

import os
import re
from typing import TYPE_CHECKING, Annotated

import typer

from chutes.cli._console import fail, load_settings, note, require
from chutes.cli._deploy_progress import DeployProgress
from chutes.cli._options import ChuteRef, ClusterAddress, NoAuth

if TYPE_CHECKING:
    from chutes.chute import Chute
    from chutes.deploy.application import Spec
    from chutes.deploy.package import Package

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def deploy(
    ref: ChuteRef,
    *,
    address: ClusterAddress = None,
    name: Annotated[str | None, typer.Option(help="Deploy the chute under another name.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the chute is ready.")] = True,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set an environment variable in the replicas. Repeatable."),
    ] = None,
    no_auth: NoAuth = False,
) -> None:
    """Deploy a chute on a cluster and print its URL.

    If no cluster is running, one is started on this machine. It keeps running until its last chute is deleted.

    A second deployment of the same chute replaces the replicas of the first. If the new replicas fail to load, the old
    version keeps serving.

    Exit codes: 0 the chute is ready, 1 the command or a file is wrong, 3 the chute failed to load.
    """
    require("ray")
    from chutes.deploy import cluster, package, rollout
    from chutes.exception import CommandError
    from chutes.loader import load_chute
    from chutes.server.auth import check_exposure
    from chutes.server.misspelt_settings import misspelt_settings

    environment = _parse_environment(env or [])
    if name is not None and not re.search(r"[A-Za-z0-9]", name):
        fail(f"--name must contain a letter or digit; got {name!r}.")
    load_settings(environment)  # the replicas get these settings, so reject an invalid one here
    for warning in misspelt_settings({**os.environ, **environment}):
        note(warning)
    labels: dict[str, str] = {}
    try:
        chute = load_chute(ref)
        packed = package.pack(ref)
        with DeployProgress() as progress:
            starts_cluster = not cluster.explicit_address(address) and cluster.find() is None
            progress.report("starting a cluster on this machine" if starts_cluster else "connecting", None)
            with cluster.connected(address, start=True) as started:
                try:
                    http_address = cluster.serve_http()
                    cluster.check_proxy(http_address)
                    check_exposure(load_settings(host=http_address[0], no_auth=no_auth))
                    spec = _place(chute, packed, name=name, environment=environment, no_auth=no_auth)
                    roll_out = rollout.roll_out if wait else rollout.start_without_waiting
                    roll_out(spec, progress.report)
                except CommandError:
                    if started:  # `stop_local` needs them after the connection has ended
                        labels = cluster.head_labels()
                    raise
    except CommandError as error:
        cluster.stop_local(labels)
        fail(error, error.exit_code)
    typer.echo(cluster.url(spec.slug, http_address))


def _place(
    chute: "Chute", packed: "Package", *, name: str | None, environment: dict[str, str], no_auth: bool
) -> "Spec":
    """Return the specification of a new version, with the Ray options that choose its nodes.

    Raise Unschedulable if no node fits.
    """
    from chutes.deploy import application, placement

    nodes = placement.cluster_nodes()
    ray_options = placement.place(chute.node_selector, nodes)
    if chute.node_selector and "num_gpus" not in ray_options:
        note(f"No node has a GPU. {chute.name} is placed on a node without one and may fail to load.")
    return application.spec_for(
        chute,
        packed,
        name=name,
        environment=environment,
        ray_options=ray_options,
        surge=placement.has_room(chute.node_selector, nodes, placement.free_gpus()),
        no_auth=no_auth,
    )


def _parse_environment(values: list[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not equals or not name.isidentifier():
            fail(f"--env must have the form KEY=VALUE; got {name!r}.")
    return {name: value for name, _, value in pairs}
