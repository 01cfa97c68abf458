"""`chutes keys`: manage the API keys that a server on this machine accepts."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from chutes._warn import did_you_mean
from chutes.cli import COMMANDS
from chutes.cli._console import fail, load_settings, note
from chutes.cli._options import AsJson
from chutes.server.keys import Key, KeyStore, unreadable_keys

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", help=COMMANDS["keys"])

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key, such as the app that uses it.")]


def _key_store() -> KeyStore:
    return KeyStore(load_settings().keys_file)


def _read_keys(store: KeyStore) -> list[Key]:
    try:
        return store.list()
    except (OSError, ValueError) as error:
        fail(unreadable_keys(error))


def _warn_of_risks(store: KeyStore) -> None:
    for risk in store.risks():
        note(f"Warning: {risk.rstrip('.')}.")


@app.command()
def create(name: KeyName, *, as_json: AsJson = False) -> None:
    """Create an API key and print it.

    Only a hash of the key is stored, so it cannot be shown again.
    """
    store = _key_store()
    _read_keys(store)
    try:
        key = store.create(name)
    except ValueError as error:
        fail(error)
    except OSError as error:
        fail(f"Cannot write {store.path}: {error.strerror}. Set CHUTES_KEYS_FILE to another file.")
    _warn_of_risks(store)
    if as_json:
        typer.echo(json.dumps({"name": name, "key": key}))
        return
    typer.echo(key)
    note("The key is not shown again. Clients send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.")


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List the names and creation times of all API keys.

    The keys themselves are not stored, so they are not shown.
    """
    store = _key_store()
    keys = _read_keys(store)
    _warn_of_risks(store)
    if as_json:
        rows = [{field: value for field, value in asdict(key).items() if field != "digest"} for key in keys]
        typer.echo(json.dumps(rows, indent=2))
        return
    if not keys:
        note("There are no API keys. To create one, run: chutes keys create NAME")
        return
    from rich.console import Console
    from rich.table import Table

    from chutes.cli._tables import plain

    table = Table("Name", "Created", box=None, pad_edge=False, header_style="bold")
    for key in keys:
        table.add_row(plain(key.name), plain(key.created))
    Console(file=sys.stdout).print(table)


@app.command()
def delete(name: KeyName) -> None:
    """Delete an API key. A running server rejects it within a second."""
    store = _key_store()
    names = [key.name for key in _read_keys(store)]
    try:
        deleted = store.delete(name)
    except OSError as error:
        fail(f"Cannot write {store.path}: {error.strerror}. Change the permissions of the file and its folder.")
    if not deleted:
        fail(f"There is no API key named {name!r}.{did_you_mean(name, names)} List them with `chutes keys list`.")
    _warn_of_risks(store)
    note(f"Deleted {name!r}.")
