"""`chutes download`: a model from the hub into the cache that chutes read it from."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chutes.cli._console import fail, say, size

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

app = typer.Typer(add_completion=False)


@app.command()
def download(
    repo: Annotated[str, typer.Argument(help="The model's name, such as black-forest-labs/FLUX.1-dev.")],
) -> None:
    """Fetch a model into the hub's cache: only the files that a loader reads, and only those not there yet.

    Prints the folder. Set HF_TOKEN for a model whose terms must be accepted, and HF_HOME to keep it
    elsewhere.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from chutes.cli import _hub
    except ImportError:
        fail("This needs the huggingface_hub package: pip install 'chutes-selfhosted[imagegen]'")
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        folder = _fetch(repo)
    except _hub.ERRORS as error:
        why = _hub.explain(error, repo)
        try:
            folder = _already_here(repo)
        except (ValueError, LocalEntryNotFoundError):
            fail(why)
        say("Everything needed is here already; the hub could not be asked for anything newer.")
    typer.echo(folder)


def _fetch(repo: str) -> str:
    """Fetch what is missing; returns the folder."""
    from huggingface_hub import HfApi, RepoFile, snapshot_download

    from chutes.cli._progress import Transfer

    api = HfApi()
    tree = [entry for entry in api.list_repo_tree(repo, recursive=True) if isinstance(entry, RepoFile)]
    api.auth_check(repo)  # anybody may list a gated model: say now that its files are not for this token
    patterns = _needed(repo, tree)
    plan = snapshot_download(repo, allow_patterns=patterns, dry_run=True)
    missing = sum(file.file_size or 0 for file in plan if file.will_download)
    total = sum(file.file_size or 0 for file in plan)
    _check_space(missing)
    say(f"{repo}: {len(plan)} files, {size(total)}, of which {size(missing)} are to be fetched")
    with Transfer(missing) as transfer:
        return snapshot_download(repo, allow_patterns=patterns, tqdm_class=transfer.bar_class)


def _already_here(repo: str) -> str:
    """The folder of a model that was fetched before; LocalEntryNotFoundError if any of it is missing."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        patterns = _needed(repo, get_cached_repo_tree(repo), local_files_only=True)
    except CachedRepoTreeNotFoundError as error:
        raise LocalEntryNotFoundError(str(error)) from None
    return snapshot_download(repo, allow_patterns=patterns, local_files_only=True)


def _needed(repo: str, tree: "list[RepoFile]", *, local_files_only: bool = False) -> list[str]:
    """The names of the files to have, as patterns that match nothing else."""
    from glob import escape

    from huggingface_hub import hf_hub_download

    from chutes.cli import _hub

    names = [file.path for file in tree]
    components: list[str] = []
    if "model_index.json" in names:
        path = hf_hub_download(repo, "model_index.json", local_files_only=local_files_only)
        components = _hub.components(json.loads(Path(path).read_text(encoding="utf-8")))
    return [escape(name) for name in _hub.needed(names, components)]


def _check_space(wanted: int) -> None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < wanted:
        fail(
            f"{size(wanted)} are needed and {size(free)} are free in {folder}: make room, "
            f"or set HF_HOME to a folder on a larger disk."
        )
