"""`chutes chutes`: what runs on a cluster. Tables for people, `--json` for programs."""

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

from chutes.cli import chutes_tables as tables
from chutes.cli._console import fail, say, settings

if TYPE_CHECKING:
    from chutes.deploy.registry import DeployedChute

app = typer.Typer(add_completion=False, no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Its name, id or slug, or its module's name with dashes.")]
Address = Annotated[
    str | None, typer.Option(help="The cluster's head, HOST:PORT.", show_default="RAY_ADDRESS, or this machine's")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_WATCH_EVERY = 1.0  # seconds
_FOLLOW_EVERY = 0.5


@dataclass(frozen=True)
class _Cluster:
    http: tuple[str, int]
    labels: dict[str, str]


@contextmanager
def _connected(address: str | None) -> Iterator[_Cluster]:
    """The cluster meanwhile; whatever is wrong with it or with a name ends the command in one line."""
    from chutes.deploy import cluster
    from chutes.exception import ChutesError

    settings()  # Ray Serve may have to be started with them
    try:
        with cluster.connected(address):
            yield _Cluster(cluster.serve_http(), cluster.head_labels())
    except ChutesError as error:
        fail(f"{error}" if str(error).endswith("?") else f"{error}.")


@app.callback()
def chutes() -> None:
    """See and change what runs on a cluster."""


@app.command("list")
def list_chutes(*, address: Address = None, as_json: Json = False) -> None:
    """List the chutes on the cluster."""
    from chutes.deploy import cluster, registry

    if cluster.explicit_address(address) is None and cluster.find() is None:
        if as_json:
            typer.echo("[]")
        else:
            say("No cluster is running here, so nothing is deployed: `chutes deploy` starts one")
        return
    with _connected(address) as known:
        rows = [
            {
                "name": each.name,
                "id": each.spec.uid if each.spec else None,
                "slug": each.slug,
                "status": each.status,
                "replicas": sum(replica["state"] == "running" for replica in each.replicas),
                "url": cluster.url(each.slug, known.http),
            }
            for each in registry.everything()
        ]
    if as_json:
        _print_json(rows)
        return
    if not rows:
        say("Nothing is deployed")
        return
    Console().print(tables.chutes(rows))


@app.command()
def get(name: Name, *, address: Address = None, as_json: Json = False) -> None:
    """Show a chute's configuration, version, URL, cords and replicas."""
    from chutes.deploy import registry

    with _connected(address) as known:
        told = _describe(registry.find(name), known)
    if as_json:
        _print_json(told)
        return
    Console().print(tables.description(told))


def _describe(chute: "DeployedChute", known: _Cluster) -> dict[str, Any]:
    from chutes.deploy import cluster

    spec = chute.spec
    told: dict[str, Any] = {"name": chute.name, "status": chute.status, "url": cluster.url(chute.slug, known.http)}
    told["host"] = f"http://{chute.slug}.localhost:{known.http[1]}"
    if spec is not None:
        scaling = spec.autoscaling
        told |= {
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
    told["deployed_at"] = tables.when(spec.made_at if spec else chute.details.get("last_deployed_time_s"))
    told["replicas"] = [
        {"id": each["replica_id"], "state": each["state"], "node": each.get("node_ip"), "pid": each.get("pid")}
        for each in chute.replicas
    ]
    return told


@app.command()
def status(
    name: Name,
    *,
    address: Address = None,
    as_json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it every second, until Ctrl-C; with --json a line each.")
    ] = False,
) -> None:
    """Show a chute's replicas, its queue, and what its last minutes were like."""
    from chutes.deploy import registry, stats

    with _connected(address) as known:
        told = stats.status(registry.find(name), known.http)
        while as_json and watch:
            typer.echo(json.dumps(told, default=str))
            sys.stdout.flush()
            time.sleep(_WATCH_EVERY)
            told = stats.status(registry.find(name), known.http)
        if as_json:
            _print_json(told)
            return
        if not watch:
            Console().print(tables.status(told))
            return
        with Live(tables.status(told), refresh_per_second=4) as live:
            while True:
                time.sleep(_WATCH_EVERY)
                live.update(tables.status(stats.status(registry.find(name), known.http)))


@app.command()
def metrics(
    name: Name,
    *,
    address: Address = None,
    as_json: Json = False,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print every series of every replica, as Prometheus reads it.")
    ] = False,
) -> None:
    """Show a chute's GPUs, queue, latencies, images and steps per second."""
    from chutes.deploy import registry, stats

    with _connected(address) as known:
        chute = registry.find(name)
        if prometheus:
            typer.echo(stats.prometheus(chute), nl=False)
            return
        told = stats.metrics(chute, known.http)
    if as_json:
        _print_json(told)
        return
    Console().print(tables.metrics(told))


@app.command()
def logs(
    name: Name,
    *,
    address: Address = None,
    tail: Annotated[int, typer.Option(help="How many lines to begin with.", min=0)] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Print the log lines of all replicas, in order."""
    from chutes.deploy import registry
    from chutes.deploy.logs import Reader

    console = Console(highlight=False, soft_wrap=True)
    shown = tables.Lines()
    with _connected(address):
        reader = Reader(registry.find(name).slug)
        lines = reader.read()
        lines = lines[-tail:] if tail else []
        while True:
            for line in lines:
                if as_json:
                    fields = {"level": line.level, "logger": line.logger, "message": line.message, **line.fields}
                    typer.echo(json.dumps({"timestamp": line.time, "replica": line.replica, **fields}))
                else:
                    console.print(shown.text(line))
            if not follow:
                return
            time.sleep(_FOLLOW_EVERY)
            lines = reader.read()


@app.command()
def delete(name: Name, *, address: Address = None) -> None:
    """Delete a chute; what it runs is finished first. With the last one goes the cluster that `deploy` started."""
    from chutes.cli.deploy import Phases
    from chutes.deploy import cluster, registry, rollout

    with _connected(address) as known:
        chute = registry.find(name)
        with Phases() as phases:
            rollout.delete(chute.slug, phases.tell)
        last = not registry.everything()
    say(f"Deleted {chute.name}")
    if last and cluster.stop_local(known.labels):
        say("It was the last one: the cluster on this machine is stopped")


@app.command()
def scale(
    name: Name,
    replicas: Annotated[int, typer.Argument(help="How many there are to be; deploying again forgets it.", min=1)],
    *,
    address: Address = None,
) -> None:
    """Run this many replicas of a chute, whatever the load."""
    from chutes.deploy import registry, rollout

    with _connected(address):
        chute = registry.find(name)
        if chute.spec is None:
            fail(f"{chute.name} was not deployed by `chutes deploy`.")
        rollout.scale(chute.spec, replicas)
    say(f"{chute.name} is to run {replicas} replica{'s' if replicas > 1 else ''}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
