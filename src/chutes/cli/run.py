"""`chutes run`: a chute on this machine, over HTTP, until it is told to stop."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from chutes.cli._console import fail, settings

app = typer.Typer(add_completion=False)

_LAST_WORDS = 20  # seconds that a process has for its shutdown hooks, after the grace period
_DEV_QUEUE = 10_000  # an author at work is not to be told that too many requests wait


@app.command()
def run(
    ref: Annotated[
        str, typer.Argument(help="module:name, a dotted module, or a file; the name is chute if not given.")
    ],
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 takes any.", min=0, max=65535, show_default="8000"),
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a Python file changes.")] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="What is logged, from here up.", show_default="info"),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask nobody for an API key, whoever can reach the address.")
    ] = False,
    dev: Annotated[
        bool, typer.Option("--dev", help="For an author at work: no API key on loopback, nobody turned away.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="The same as --log-level debug.")] = False,
) -> None:
    """Serve a chute on this machine until Ctrl-C or SIGTERM.

    The port opens at once: /health says that it is alive, /ready what it is loading and how far that is.

    Every setting of the server is an environment variable too: CHUTES_HOST, CHUTES_QUEUE_SIZE, ...

    Exits with 0 when stopped as asked, 1 for a mistake in the file or a setting, 2 for one in the command, else 3
    (the chute failed to load), 4 (it cannot go on: start it again) or 5 (requests were cut off after the grace period).
    """
    if reload:
        command = [argument for argument in sys.argv[1:] if argument != "--reload"]
        from chutes.loader import parse

        _run_again_on_changes([sys.executable, "-m", "chutes", *command], parse(ref).root, settings().drain_grace)
        return
    given: dict[str, Any] = {"host": host, "port": port, "log_level": "debug" if debug else log_level}
    given = {name: value for name, value in given.items() if value is not None}
    if no_auth:
        given["no_auth"] = True
    wanted = settings(**given)
    if dev:
        os.environ["CHUTES_DEV_MODE"] = "true"
        wanted.queue_size = _DEV_QUEUE
        wanted.no_auth |= wanted.is_loopback
    os.environ.setdefault("CHUTES_EXECUTION_CONTEXT", "REMOTE")  # `is_remote()`: here is where the model runs
    from chutes.server import serve

    raise typer.Exit(serve(ref, wanted))


def _run_again_on_changes(command: list[str], folder: Path, grace: float) -> None:
    """Run a command, and again after each change of a Python file, until Ctrl-C or SIGTERM; each ends in its grace."""
    from watchfiles import PythonFilter, watch

    if not folder.is_dir():
        fail(f"There is no folder {folder}.")
    passed_on = signal.SIGTERM

    def told(*_: object) -> None:
        nonlocal passed_on
        passed_on = signal.SIGINT
        raise KeyboardInterrupt

    # A shell that is not interactive has what it puts into the background ignore SIGINT: sent to this process alone, it
    # ends the server all the same, as it does without --reload.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What is sent to the whole group, as a terminal's Ctrl-C is, reaches the server by itself; the same signal again
    # would cut its requests off, so that it is the other one that is passed on.
    signal.signal(signal.SIGTERM, told)
    process = subprocess.Popen(command)  # noqa: S603 - our own words
    with contextlib.suppress(KeyboardInterrupt):
        try:
            for _ in watch(folder, watch_filter=PythonFilter(), raise_interrupt=False):
                _end(process, grace, signal.SIGTERM)
                process = subprocess.Popen(command)  # noqa: S603 - as above
        finally:
            _end(process, grace, passed_on)


def _end(process: subprocess.Popen[bytes], grace: float, by: signal.Signals) -> None:
    """Let a server drain; one that has not ended after its grace, or when this process is told to end, is killed."""
    if process.poll() is None:
        process.send_signal(by)
    try:
        process.wait(grace + _LAST_WORDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
