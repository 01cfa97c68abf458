"""Verify and delete models in this machine's Hugging Face cache. Needs the package `huggingface_hub`."""

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from chutes.exception import CommandError

log = logging.getLogger(__name__)


class CacheVerificationError(CommandError):
    """Files of a model in the cache differ from the hub's, or the model is not in the cache.

    - `reason`: `mismatch` or `not_found`.
    - `damaged`: the names of the files that differ.
    """

    message = "The model in the cache differs from the hub's."

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: Literal["mismatch", "not_found"] = "mismatch",
        damaged: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.damaged = damaged


class Comparison(NamedTuple):
    """The cached files of a model beside the hub's."""

    folder: Path
    """The snapshot in the cache."""
    revision: str
    """The commit of that snapshot."""
    checked: int
    """Number of files that were compared."""
    damaged: list[str]
    """The files whose checksums differ."""
    missing: list[str]
    """The files that are in the hub's repository only."""


def compare_with_hub(repo_id: str, revision: str | None = None, cache_dir: str | Path | None = None) -> Comparison:
    """Compare the checksums of a model's cached files with the hub's. Every file is read in full.

    Args:
        repo_id: The model's repository, such as `black-forest-labs/FLUX.1-dev`.
        revision: A commit, branch or tag in the cache; None means `main`.
        cache_dir: The cache; None means the one that `HF_HOME` chooses.

    Raises:
        CacheVerificationError: The model is not in the cache.
        HFValidationError: The repository's name is malformed.
        OSError: The hub answers with an error, offline mode is on, or a file cannot be read.
        httpx.TransportError: The hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        result = HfApi().verify_repo_checksums(repo_id, revision=revision, cache_dir=cache_dir)
    except HFValidationError:
        raise
    except ValueError:
        at = f" at revision {revision}" if revision else ""
        message = f"The cache does not hold {repo_id}{at}. Get it with: chutes download {repo_id}"
        raise CacheVerificationError(message, reason="not_found") from None
    return Comparison(
        result.verified_path,
        result.revision,
        result.checked_count,
        [mismatch["path"] for mismatch in result.mismatches],
        result.missing_paths,
    )


async def verify_cache(
    repo_id: str, revision: str | None = None, cache_dir: str | Path | None = None
) -> dict[str, int | bool]:
    """Verify that the cached files of a model have the hub's checksums, as the hosted platform's SDK does.

    The arguments are those of `compare_with_hub`. If the hub is unavailable, nothing is verified, and a warning is
    logged.

    Returns:
        Numbers of files: `verified`, `skipped` (not in the cache) and `total`; and whether the hub was unavailable,
        `skipped_api_error`.

    Raises:
        CacheVerificationError: Files differ, or the model is not in the cache.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        result = await asyncio.to_thread(compare_with_hub, repo_id, revision, cache_dir)
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.TransportError) as error:
        log.warning("The cache of %s was not verified, because the hub is unavailable: %s", repo_id, error)
        return {"verified": 0, "skipped": 0, "total": 0, "skipped_api_error": True}
    if result.damaged:
        names = ", ".join(result.damaged)
        message = f"{len(result.damaged)} cached files of {repo_id} differ from the hub's: {names}."
        raise CacheVerificationError(message, damaged=tuple(result.damaged))
    skipped = len(result.missing)
    return {
        "verified": result.checked,
        "skipped": skipped,
        "total": result.checked + skipped,
        "skipped_api_error": False,
    }


def purge_model_cache(repo_id: str, cache_dir: str | Path | None = None) -> bool:
    """Delete all revisions of a model from the cache. Return whether there were any."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(cache_dir or constants.HF_HUB_CACHE).expanduser() / repo_folder_name(
        repo_id=repo_id, repo_type="model"
    )
    if not folder.is_dir():
        return False
    shutil.rmtree(folder)
    return True
