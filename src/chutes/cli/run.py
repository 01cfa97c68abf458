"""`chutes run`: serve a chute on this machine over HTTP until a signal stops it."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from chutes.cli._console import fail, load_settings
from chutes.cli._options import ChuteRef
from chutes.cli._setting_options import with_setting_options

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

_DEV_QUEUE_SIZE = 10_000  # large enough that a developer never sees 429


@app.command()
@with_setting_options
def run(
    ref: ChuteRef,
    *,
    reload: Annotated[bool, typer.Option("--reload", help="Restart the server when a Python file changes.")] = False,
    dev: Annotated[
        bool, typer.Option("--dev", help="Development mode: no API key on loopback, and a queue of 10,000 requests.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Same as --log-level debug.")] = False,
    **settings: Any,
) -> None:
    """Serve a chute on this machine until Ctrl-C or SIGTERM.

    The port opens at once. /health reports that the process is alive, and /ready reports how far the chute has loaded.

    Every setting is also an environment variable, such as CHUTES_QUEUE_SIZE. An option wins over the variable. API keys
    have no option, because other users can read command lines: set CHUTES_API_KEYS, or use `chutes keys create`.

    Exit codes: 0 stopped by a signal, 1 a wrong file or setting, 2 a wrong command line, 3 the chute failed to load, 4
    the chute failed while serving and must be restarted, 5 requests were aborted after the grace period.
    """
    if reload:
        from chutes.loader import parse_reference
        from chutes.server.lifecycle import SHUTDOWN_MARGIN, SHUTDOWN_TIMEOUT

        command = [argument for argument in sys.argv[1:] if argument != "--reload"]
        stop_timeout = load_settings(**_given_options(settings)).drain_grace + SHUTDOWN_TIMEOUT + SHUTDOWN_MARGIN
        _run_and_reload([sys.executable, "-m", "chutes", *command], parse_reference(ref).root, stop_timeout)
        return
    if debug:
        settings["log_level"] = "debug"
    loaded = load_settings(**_given_options(settings))
    if dev:
        os.environ["CHUTES_DEV_MODE"] = "true"  # code for the hosted platform may read it
        loaded.queue_size = _DEV_QUEUE_SIZE
        loaded.no_auth |= loaded.is_loopback
    os.environ.setdefault("CHUTES_EXECUTION_CONTEXT", "REMOTE")  # for `is_remote()`: the model runs in this process
    from chutes.exception import CommandError
    from chutes.server import serve

    try:
        code = serve(ref, loaded)
    except CommandError as error:
        fail(error)
    raise typer.Exit(code)


def _given_options(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _run_and_reload(command: list[str], folder: Path, stop_timeout: float) -> None:
    """Run a server, and restart it after each change of a Python file, until Ctrl-C or SIGTERM.

    A server that has not stopped within `stop_timeout` seconds is killed.
    """
    from watchfiles import PythonFilter, watch

    if not folder.is_dir():
        fail(f"There is no folder {folder} to watch. Check the path of the chute.")
    last_signal = signal.SIGTERM

    def stop(*_: object) -> None:
        nonlocal last_signal
        last_signal = signal.SIGINT
        raise KeyboardInterrupt

    # A non-interactive shell starts background jobs with SIGINT ignored. Restoring the handler lets a SIGINT that only
    # this process receives stop the server, as it does without --reload.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Ctrl-C on a terminal reaches the server too, because it signals the whole process group. The server aborts its
    # requests when the same signal arrives twice, so this process forwards the other signal.
    signal.signal(signal.SIGTERM, stop)
    process = subprocess.Popen(command)  # noqa: S603 - no input from outside
    with contextlib.suppress(KeyboardInterrupt):
        try:
            for _ in watch(folder, watch_filter=PythonFilter(), raise_interrupt=False):
                _stop(process, stop_timeout, signal.SIGTERM)
                process = subprocess.Popen(command)  # noqa: S603 - as above
        finally:
            _stop(process, stop_timeout, last_signal)


def _stop(process: subprocess.Popen[bytes], timeout: float, number: signal.Signals) -> None:
    """Send a server a signal, and kill it after the timeout or when this process gets a signal itself."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
