"""`chutes keys`: the API keys that a server on this machine accepts."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from chutes._warn import did_you_mean
from chutes.cli._console import fail, say
from chutes.server.keys import Key, KeyStore

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make, list and delete API keys.")

Name = Annotated[str, typer.Argument(help="What the key is for, such as the app that will hold it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _keys(store: KeyStore) -> list[Key]:
    try:
        return store.list()
    except (OSError, ValueError) as error:
        fail(f"{error}. Move it away, or name another with CHUTES_KEYS_FILE.")


def _warn_of_risks(store: KeyStore) -> None:
    for risk in store.risks():
        say(f"Warning: {risk}.")


@app.command()
def create(name: Name, *, as_json: AsJson = False) -> None:
    """Make a key and print it: the only time that it is shown."""
    store = KeyStore()
    _keys(store)
    try:
        key = store.create(name)
    except ValueError as error:
        fail(f"{error}.")
    except OSError as error:
        fail(f"The key cannot be kept in {store.path} ({error.strerror}): set CHUTES_KEYS_FILE.")
    _warn_of_risks(store)
    if as_json:
        typer.echo(json.dumps({"name": name, "key": key}))
        return
    typer.echo(key)
    say("It is not shown again. Clients send it as `Authorization: Bearer KEY`, or as `X-API-Key: KEY`.")


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List the keys: their names and when they were made, never the keys themselves."""
    store = KeyStore()
    keys = _keys(store)
    _warn_of_risks(store)
    if as_json:
        shown = [{k: v for k, v in asdict(key).items() if k != "digest"} for key in keys]
        typer.echo(json.dumps(shown, indent=2))
        return
    if not keys:
        say("There are no keys. Make one with: chutes keys create NAME")
        return
    from rich.console import Console
    from rich.table import Table

    from chutes.cli.chutes_tables import plain

    table = Table("Name", "Created", box=None, pad_edge=False, header_style="bold")
    for key in keys:
        table.add_row(plain(key.name), plain(key.created))
    Console(file=sys.stdout).print(table)


@app.command()
def delete(name: Name) -> None:
    """Delete a key: a running server stops accepting it within a second."""
    store = KeyStore()
    known = [key.name for key in _keys(store)]
    try:
        deleted = store.delete(name)
    except OSError as error:
        fail(f"{store.path} cannot be changed ({error.strerror}).")
    if not deleted:
        fail(
            f"There is no key named {name!r}{did_you_mean(name, known) or '.'} `chutes keys list` shows what there is."
        )
    _warn_of_risks(store)
    say(f"Deleted {name!r}.")
