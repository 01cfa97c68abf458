"""`chutes chutes`: inspect and manage the chutes on a cluster, with tables for people and `--json` for programs."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from chutes.cli import COMMANDS
from chutes.cli import _tables as tables
from chutes.cli._console import fail, load_settings, note, require
from chutes.cli._options import AsJson, ClusterAddress, DeployedName

if TYPE_CHECKING:
    from chutes.deploy.registry import DeployedChute

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", help=COMMANDS["chutes"])

_WATCH_INTERVAL = 1.0  # seconds
_FOLLOW_INTERVAL = 0.5


@dataclass(frozen=True)
class _Connection:
    """A connection to a cluster: the address of its HTTP proxy, and the labels of its head node."""

    http_address: tuple[str, int]
    labels: dict[str, str]


@contextmanager
def _connect(address: str | None) -> Iterator[_Connection]:
    """Connect to the cluster. A CommandError, also one in the `with` block, ends the command with its message."""
    require("ray")
    from chutes.deploy import cluster
    from chutes.exception import CommandError

    load_settings()  # Ray Serve may be started with these settings, so reject an invalid one here
    try:
        with cluster.connected(address):
            yield _Connection(cluster.serve_http(), cluster.head_labels())
    except CommandError as error:
        fail(error)


@app.command("list")
def list_chutes(*, address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """List the chutes on a cluster."""
    require("ray")
    from chutes.deploy import cluster, registry
    from chutes.exception import NoCluster

    if cluster.explicit_address(address) is None and cluster.find() is None:
        if as_json:
            typer.echo("[]")
        else:
            note(NoCluster.message)
        return
    with _connect(address) as connection:
        rows = [
            {
                "name": chute.name,
                "id": chute.spec.uid if chute.spec else None,
                "slug": chute.slug,
                "status": chute.status,
                "replicas": sum(replica["state"] == "running" for replica in chute.replicas),
                "url": cluster.url(chute.slug, connection.http_address),
            }
            for chute in registry.list_chutes()
        ]
    if as_json:
        _print_json(rows)
        return
    if not rows:
        note("No chute is deployed. Deploy one with `chutes deploy`.")
        return
    Console().print(tables.chutes(rows))


@app.command()
def get(name: DeployedName, *, address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Show the configuration, version, URL, cords and replicas of a chute."""
    from chutes.deploy import registry

    with _connect(address) as connection:
        description = _describe(registry.find(name), connection)
    if as_json:
        _print_json(description)
        return
    Console().print(tables.description(description))


def _describe(chute: "DeployedChute", connection: _Connection) -> dict[str, Any]:
    from chutes.deploy import cluster

    spec = chute.spec
    description: dict[str, Any] = {
        "name": chute.name,
        "status": chute.status,
        "url": cluster.url(chute.slug, connection.http_address),
        "host": f"http://{chute.slug}.localhost:{connection.http_address[1]}",
    }
    if spec is not None:
        scaling = spec.autoscaling
        description |= {
            "id": spec.uid,
            "slug": spec.slug,
            "version": spec.version,
            "module": spec.package.entry,
            "files": list(spec.package.files),
            "concurrency": spec.concurrency,
            "queue_size": spec.queue_size,
            "min_replicas": scaling["min_replicas"],
            "max_replicas": scaling["max_replicas"],
            "scale_down_delay": scaling["downscale_delay_s"],
            **spec.metadata,
            "cords": spec.cords,
        }
    deployed_at = spec.created_at if spec else chute.details.get("last_deployed_time_s")
    description["deployed_at"] = tables.format_time(deployed_at)
    description["replicas"] = [
        {"id": each["replica_id"], "state": each["state"], "node": each.get("node_ip"), "pid": each.get("pid")}
        for each in chute.replicas
    ]
    return description


@app.command()
def status(
    name: DeployedName,
    *,
    address: ClusterAddress = None,
    as_json: AsJson = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Update the output every second until Ctrl-C. With --json, print a line each."),
    ] = False,
) -> None:
    """Show the replicas, the queue and the recent requests of a chute.

    Request counts and latencies are those of the last five minutes.
    """
    from chutes.deploy import registry, stats

    with _connect(address) as connection:
        current = stats.status(registry.find(name), connection.http_address)
        while as_json and watch:
            typer.echo(json.dumps(current, default=str))
            sys.stdout.flush()
            time.sleep(_WATCH_INTERVAL)
            current = stats.status(registry.find(name), connection.http_address)
        if as_json:
            _print_json(current)
            return
        if not watch:
            Console().print(tables.status(current))
            return
        with Live(tables.status(current), refresh_per_second=4) as live:
            while True:
                time.sleep(_WATCH_INTERVAL)
                live.update(tables.status(stats.status(registry.find(name), connection.http_address)))


@app.command()
def metrics(
    name: DeployedName,
    *,
    address: ClusterAddress = None,
    as_json: AsJson = False,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print the metrics of all replicas in the Prometheus text format.")
    ] = False,
) -> None:
    """Show the GPUs, queue, latencies, and images and steps per second of a chute."""
    from chutes.deploy import registry, stats

    with _connect(address) as connection:
        chute = registry.find(name)
        if prometheus:
            typer.echo(stats.prometheus(chute), nl=False)
            return
        current = stats.metrics(chute, connection.http_address)
    if as_json:
        _print_json(current)
        return
    Console().print(tables.metrics(current))


@app.command()
def logs(
    name: DeployedName,
    *,
    address: ClusterAddress = None,
    tail: Annotated[int, typer.Option(help="Number of past lines to print first.", min=0)] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the log lines of all replicas of a chute, in the order of their timestamps."""
    from chutes.deploy import registry
    from chutes.deploy.logs import Reader

    console = Console(highlight=False, soft_wrap=True)
    log_lines = tables.LogLines()
    with _connect(address):
        reader = Reader(registry.find(name).slug)
        lines = reader.read()
        lines = lines[-tail:] if tail else []
        while True:
            for line in lines:
                if as_json:
                    fields = {"level": line.level, "logger": line.logger, "message": line.message, **line.fields}
                    typer.echo(json.dumps({"timestamp": line.time, "replica": line.replica, **fields}))
                else:
                    console.print(log_lines.text(line))
            if not follow:
                return
            time.sleep(_FOLLOW_INTERVAL)
            lines = reader.read()


@app.command()
def delete(name: DeployedName, *, address: ClusterAddress = None) -> None:
    """Delete a chute after its running requests have finished.

    If it is the last chute on a cluster that `chutes deploy` started, the cluster is stopped too.
    """
    require("ray")
    from chutes.cli._deploy_progress import DeployProgress
    from chutes.deploy import cluster, registry, rollout

    with _connect(address) as connection:
        chute = registry.find(name)
        with DeployProgress() as progress:
            rollout.delete(chute.slug, progress.report)
        is_last = not registry.list_chutes()
    note(f"Deleted {chute.name}.")
    if is_last and cluster.stop_local(connection.labels):
        note("No chute is left, so the cluster on this machine was stopped.")


@app.command()
def scale(
    name: DeployedName,
    replicas: Annotated[int, typer.Argument(metavar="REPLICAS", help="Number of replicas to run.", min=1)],
    *,
    address: ClusterAddress = None,
) -> None:
    """Run a fixed number of replicas of a chute instead of scaling with the load.

    The next `chutes deploy` of the chute turns autoscaling on again.
    """
    from chutes.deploy import registry, rollout

    with _connect(address):
        chute = registry.find(name)
        if chute.spec is None:
            fail(f"{chute.name} was not deployed by `chutes deploy`. Deploy it with that command, then scale it.")
        rollout.scale(chute.spec, replicas)
    note(f"Scaling {chute.name} to {replicas} replica{'s' if replicas > 1 else ''}.")


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
