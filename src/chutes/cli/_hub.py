"""What of a model repository is needed, and what to tell a person when it cannot be had."""

import re
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

import httpx
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

_TEXT = {".json", ".md", ".txt"}
_OTHER_FORMATS = {".bin", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".pb", ".pt", ".pth", ".xml"}
_VARIANT = re.compile(r"\.(fp16|bf16|fp32|ema_only|non_ema)(-\d+-of-\d+)?\.safetensors$")

# Everything that its client raises; its own errors of HTTP, offline mode and the local cache are OSErrors.
ERRORS = (httpx.TransportError, HFValidationError, OSError)


def needed(files: Iterable[str], components: Collection[str] = ()) -> list[str]:
    """The files that a loader reads, out of all that a repository holds.

    A diffusers repository names its components (transformer, vae, …) in model_index.json, each a folder; the
    same weights packed into single files beside them (23.8 GB for FLUX.1-dev) are left out. So are, in any
    repository, copies of safetensors weights in other formats and precisions.
    """
    paths = [PurePosixPath(name) for name in files]
    if components:
        paths = [p for p in paths if p.parts[0] in components or (len(p.parts) == 1 and p.suffix in _TEXT)]
    has_safetensors = {p.parent for p in paths if p.suffix == ".safetensors"}
    has_plain = {p.parent for p in paths if p.suffix == ".safetensors" and not _VARIANT.search(p.name)}
    return [
        str(p)
        for p in paths
        if not (p.suffix in _OTHER_FORMATS and p.parent in has_safetensors)
        and not (_VARIANT.search(p.name) and p.parent in has_plain)
        and p.name != ".gitattributes"
    ]


def components(model_index: dict[str, object]) -> list[str]:
    """The folders that a model_index.json names: `"vae": ["diffusers", "AutoencoderKL"]`."""
    return [
        name for name, value in model_index.items() if isinstance(value, list) and any(v is not None for v in value)
    ]


def explain(error: Exception, repo: str) -> str:
    """One line: what went wrong, and what to do."""
    hub = constants.ENDPOINT
    match error:
        case GatedRepoError():
            text = (
                f"{repo} is gated: accept its terms at {hub}/{repo}, make a token that may read it, "
                "and set HF_TOKEN to that token."
            )
        case RepositoryNotFoundError():
            text = (
                f"There is no model {repo}, or it is private: check the name, "
                "or set HF_TOKEN to a token that may read it."
            )
        case HFValidationError():
            text = f"{repo!r} is not a model's name: it looks like black-forest-labs/FLUX.1-dev."
        case httpx.TransportError() | OfflineModeIsEnabled() | LocalEntryNotFoundError():
            text = (
                f"{hub} cannot be reached, and {repo} is not wholly in {constants.HF_HUB_CACHE}: "
                "check the network (HTTPS_PROXY, HF_HUB_OFFLINE) and run it again; what has arrived is kept."
            )
        case HfHubHTTPError() if error.response.status_code == httpx.codes.UNAUTHORIZED:
            text = f"{hub} does not accept the token: set HF_TOKEN to a valid one, or unset it."
        case HfHubHTTPError():
            status = error.response.status_code
            text = f"{hub} answered {status} for {repo}: try again in a while; what has arrived is kept."
        case _:
            text = f"{repo} could not be downloaded: {error}"
    return text
