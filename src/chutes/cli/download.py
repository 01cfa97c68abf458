"""`chutes download`: download a model from the Hugging Face Hub into the cache that chutes load it from."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chutes.cli._console import fail, format_bytes, note, require

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def download(
    repo: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model's repository, such as black-forest-labs/FLUX.1-dev.")
    ],
) -> None:
    """Download a model into the Hugging Face cache and print its folder.

    Only files that a loader reads are downloaded, and only those that are not in the cache yet.

    Set HF_TOKEN for a model whose terms must be accepted. Set HF_HOME to keep the cache in another folder.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    require("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from chutes.cli import _hub

    disable_progress_bars()
    try:
        folder = _fetch(repo)
    except _hub.ERRORS as error:
        reason = _hub.explain(error, repo)
        try:
            folder = _find_in_cache(repo)
        except (ValueError, LocalEntryNotFoundError):
            fail(reason)
        note("The hub is unavailable, but the cache holds every file of the model.")
    typer.echo(folder)


def _fetch(repo: str) -> str:
    """Download the missing files of a model, and return its folder."""
    from huggingface_hub import HfApi, RepoFile, snapshot_download

    from chutes.cli._download_progress import DownloadProgress

    api = HfApi()
    tree = [entry for entry in api.list_repo_tree(repo, recursive=True) if isinstance(entry, RepoFile)]
    api.auth_check(repo)  # anyone may list the files of a gated model, so check access before downloading
    patterns = _patterns(repo, tree)
    plan = snapshot_download(repo, allow_patterns=patterns, dry_run=True)
    missing = sum(file.file_size or 0 for file in plan if file.will_download)
    total = sum(file.file_size or 0 for file in plan)
    _check_disk_space(missing)
    note(f"{repo}: {len(plan)} files, {format_bytes(total)}; {format_bytes(missing)} to download.")
    with DownloadProgress(missing) as progress:
        return snapshot_download(repo, allow_patterns=patterns, tqdm_class=progress.bar_class)


def _find_in_cache(repo: str) -> str:
    """Return the folder of a model that is in the cache. Raise LocalEntryNotFoundError if a file is missing."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        patterns = _patterns(repo, get_cached_repo_tree(repo), local_files_only=True)
    except CachedRepoTreeNotFoundError as error:
        raise LocalEntryNotFoundError(str(error)) from None
    return snapshot_download(repo, allow_patterns=patterns, local_files_only=True)


def _patterns(repo: str, tree: "list[RepoFile]", *, local_files_only: bool = False) -> list[str]:
    """Return the names of the files to download, as glob patterns that match nothing else."""
    from glob import escape

    from huggingface_hub import hf_hub_download

    from chutes.cli import _hub

    names = [file.path for file in tree]
    components: list[str] = []
    if "model_index.json" in names:
        path = hf_hub_download(repo, "model_index.json", local_files_only=local_files_only)
        components = _hub.components(json.loads(Path(path).read_text(encoding="utf-8")))
    return [escape(name) for name in _hub.files_to_download(names, components)]


def _check_disk_space(needed: int) -> None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        fail(
            f"The download needs {format_bytes(needed)}, but {folder} has {format_bytes(free)} free. Free some space, "
            "or set HF_HOME to a folder on a larger disk."
        )
