"""`chutes deploy`: a chute on a cluster; on one of its own on this machine if there is none."""

import re
import time
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.console import Console
from rich.text import Text

from chutes._text import printable
from chutes.cli._console import fail, say, settings

if TYPE_CHECKING:
    from rich.status import Status

app = typer.Typer(add_completion=False)


@app.command()
def deploy(
    ref: Annotated[
        str, typer.Argument(help="module:name, a dotted module, or a file; the name is chute if not given.")
    ],
    *,
    address: Annotated[
        str | None, typer.Option(help="The cluster's head, HOST:PORT.", show_default="RAY_ADDRESS, or this machine's")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Deploy it under another name.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it serves.")] = True,
    env: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Set this in the replicas' environment; repeatable.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask nobody for an API key, whoever can reach the address.")
    ] = False,
) -> None:
    """Put a chute on a cluster and print its URL.

    Without a cluster one is started on this machine; it goes on after this command, until the last chute is deleted.

    Deploying again replaces the old version's replicas by new ones; if those fail to load, the old version serves on.
    """
    from chutes.deploy import application, cluster, package, placement, rollout
    from chutes.exception import ChutesError
    from chutes.loader import load_chute
    from chutes.server.auth import Exposed, check_exposure

    environment = _environment(env or [])
    if name is not None and not re.search(r"[A-Za-z0-9]", name):
        fail(f"--name {name!r}: a name has a letter or a digit.")
    settings(environment)  # replicas get those of the environment: a wrong one is told now
    labels: dict[str, str] = {}
    try:
        chute = load_chute(ref)
        packed = package.pack(ref)
        with Phases() as phases:
            none_here = not cluster.explicit_address(address) and cluster.find() is None
            phases.tell("starting a cluster on this machine" if none_here else "connecting", None)
            with cluster.connected(address, start=True) as started:
                try:
                    http = cluster.serve_http()
                    cluster.check_proxy(http)
                    check_exposure(settings(host=http[0], no_auth=no_auth))
                    nodes = cluster.ray_nodes()
                    ray_options = placement.place(chute.node_selector, nodes)
                    if chute.node_selector and "num_gpus" not in ray_options:
                        say(f"No node has a GPU: {chute.name} is placed without one, and may not load there")
                    spec = application.spec_for(
                        chute,
                        packed,
                        name=name,
                        environment=environment,
                        ray_options=ray_options,
                        surge=placement.has_room(chute.node_selector, nodes, cluster.free_gpus()),
                        no_auth=no_auth,
                    )
                    (rollout.roll_out if wait else rollout.start_unwatched)(spec, phases.tell)
                except (ChutesError, Exposed):
                    if started:  # nothing runs on it
                        labels = cluster.head_labels()
                    raise
    except (ChutesError, Exposed) as error:
        cluster.stop_local(labels)
        fail(str(error) if str(error).endswith((".", "?")) else f"{error}.", _code(error))
    typer.echo(cluster.url(spec.slug, http))


def _code(error: Exception) -> int:
    """As `chutes run` ends: 1 for a mistake in the command or the file, 3 when the chute failed to load."""
    from chutes.deploy.rollout import RolloutFailed
    from chutes.server import ExitCode

    return ExitCode.LOAD_FAILED if isinstance(error, RolloutFailed) else ExitCode.USAGE


def _environment(given: list[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for name, equals, _ in pairs:
        if not equals or not name.isidentifier():
            fail(f"--env {name}: write it as KEY=VALUE.")
    return {name: value for name, _, value in pairs}


class Phases:
    """Shows where a deploy is: one changing line on a terminal, a line per phase in a log."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status: Status | None = None
        self._said = ""
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def tell(self, phase: str, fraction: float | None) -> None:
        """Show the phase, and how far it is."""
        percent = f" {fraction:.0%}" if fraction is not None and phase != "warm" else ""
        line = printable(f"{phase}{percent}")  # a replica's own words
        if self._status is not None:
            self._status.update(Text(line))
        if line != self._said and (self._status is None or phase == "warm"):
            say(f"{line} ({time.monotonic() - self._began:.1f} s)")
        self._said = line
