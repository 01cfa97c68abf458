"""`chutes download`: download a model from the Hugging Face Hub into the cache that chutes load it from."""

import json
import os
import shutil
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chutes.cli._console import fail, format_bytes, note, require

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

    from chutes.util.hf import Comparison

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


@app.command()
def download(
    repo: Annotated[
        str, typer.Argument(metavar="MODEL", help="The model's repository, such as black-forest-labs/FLUX.1-dev.")
    ],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Download nothing: compare the checksums of all cached files with the hub's."),
    ] = False,
) -> None:
    """Download a model into the Hugging Face cache and print its folder.

    Only files that a loader reads are downloaded, and only those that are not in the cache yet. Afterwards their
    checksums are compared with the hub's. Damaged files are deleted from the cache, and the exit code is 1.

    Set HF_TOKEN for a model whose terms must be accepted. Set HF_HOME to keep the cache in another folder.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    require("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from chutes.cli import _hub

    disable_progress_bars()
    try:
        folder = _verify(repo) if verify else _fetch(repo)
    except _hub.ERRORS as error:
        reason = _hub.explain(error, repo)
        if verify:
            fail(reason)
        try:
            folder = _find_in_cache(repo)
        except (ValueError, LocalEntryNotFoundError):
            fail(reason)
        note("The hub is unavailable, but the cache holds every file of the model.")
    typer.echo(folder)


def _fetch(repo: str) -> str:
    """Download the missing and the damaged files of a model, and return its folder."""
    from huggingface_hub import HfApi, RepoFile, snapshot_download

    from chutes.cli._download_progress import DownloadProgress

    api = HfApi()
    commit = api.model_info(repo).sha
    tree = [entry for entry in api.list_repo_tree(repo, recursive=True, revision=commit) if isinstance(entry, RepoFile)]
    api.auth_check(repo)  # anyone may list the files of a gated model, so check access before downloading
    for name, path in _of_wrong_size(repo, tree, revision=commit):
        note(f"{name} in the cache has a wrong size and is downloaded again.")
        _delete(path)
    patterns = list(map(escape, _needed(repo, tree)))  # match nothing else
    plan = snapshot_download(repo, allow_patterns=patterns, dry_run=True)
    missing = sum(file.file_size or 0 for file in plan if file.will_download)
    total = sum(file.file_size or 0 for file in plan)
    _check_disk_space(missing)
    note(f"{repo}: {len(plan)} files, {format_bytes(total)}; {format_bytes(missing)} to download.")
    with DownloadProgress(missing) as progress:
        folder = snapshot_download(repo, allow_patterns=patterns, tqdm_class=progress.bar_class)
    if any(file.will_download for file in plan):
        _compare(repo)
    return folder


def _verify(repo: str) -> str:
    """Verify the files of a model in the cache, and return its folder."""
    from huggingface_hub import HfApi, RepoFile

    result = _compare(repo)
    if "model_index.json" in result.missing:
        missing = ["model_index.json"]
    else:
        entries = HfApi().list_repo_tree(repo, recursive=True, revision=result.revision)
        needed = _needed(repo, [entry for entry in entries if isinstance(entry, RepoFile)], local_files_only=True)
        missing = [name for name in result.missing if name in needed]
    if missing:
        fail(f"The cache lacks {len(missing)} files of {repo}: {_listed(missing)}. Run `chutes download {repo}`.")
    note(f"{result.checked} files of {repo} have the hub's checksums.")
    return str(result.folder)


def _compare(repo: str) -> "Comparison":
    """Compare the cached files of a model with the hub's. Delete damaged ones and end the command if there are any."""
    from chutes.util.hf import CacheVerificationError, compare_with_hub

    note("Comparing the files in the cache with the hub's checksums.")
    try:
        result = compare_with_hub(repo)
    except CacheVerificationError as error:
        fail(error)
    for name in result.damaged:
        _delete(result.folder / name)
    if result.damaged:
        fail(
            f"{len(result.damaged)} files of {repo} were damaged and are now deleted from the cache: "
            f"{_listed(result.damaged)}. Run `chutes download {repo}` to get them again."
        )
    return result


def _delete(path: Path) -> None:
    """Delete a file of a snapshot and the blob that it links to."""
    blob = path.resolve()
    try:
        path.unlink()
        blob.unlink(missing_ok=True)
    except OSError as error:
        fail(f"Cannot delete the damaged file {path}: {error.strerror}. Delete it and run the command again.")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _find_in_cache(repo: str) -> str:
    """Return the folder of a model that is in the cache. Raise LocalEntryNotFoundError if a file is missing."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        tree = get_cached_repo_tree(repo)
    except CachedRepoTreeNotFoundError as error:
        raise LocalEntryNotFoundError(str(error)) from None
    if damaged := _of_wrong_size(repo, tree):
        raise LocalEntryNotFoundError(f"{damaged[0][0]} has a wrong size.")
    patterns = list(map(escape, _needed(repo, tree, local_files_only=True)))
    return snapshot_download(repo, allow_patterns=patterns, local_files_only=True)


def _of_wrong_size(repo: str, tree: "list[RepoFile]", *, revision: str | None = None) -> list[tuple[str, Path]]:
    """Return the names and paths of cached files whose size is not the hub's."""
    from huggingface_hub import try_to_load_from_cache

    found = []
    for file in tree:
        path = try_to_load_from_cache(repo, file.path, revision=revision)
        if isinstance(path, str) and Path(path).stat().st_size != file.size:
            found.append((file.path, Path(path)))
    return found


def _needed(repo: str, tree: "list[RepoFile]", *, local_files_only: bool = False) -> list[str]:
    """Return the names of the files that a loader reads."""
    from huggingface_hub import hf_hub_download

    from chutes.cli import _hub

    names = [file.path for file in tree]
    components: list[str] = []
    if "model_index.json" in names:
        path = hf_hub_download(repo, "model_index.json", local_files_only=local_files_only)
        try:
            components = _hub.components(dict(json.loads(Path(path).read_text(encoding="utf-8"))))
        except (TypeError, ValueError):
            fail(f"{repo} has a model_index.json that is no JSON object. Choose another model. The file is {path}.")
    return _hub.files_to_download(names, components)


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
