"""The Hugging Face Hub: the files of a repository that a loader reads, and the hub's errors in plain words."""

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

# All errors of the hub's client. Those for HTTP, offline mode and the local cache are subclasses of OSError.
ERRORS = (httpx.TransportError, HFValidationError, OSError)


def files_to_download(files: Iterable[str], components: Collection[str] = ()) -> list[str]:
    """Return the files of a repository that a loader reads.

    `components` are the folders of a diffusers pipeline (transformer, vae, …). If given, files outside of them are left
    out, such as a copy of the weights in one file (23.8 GB for FLUX.1-dev). Copies of safetensors weights in other
    formats and precisions are always left out.
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
    """Return the folders that a model_index.json names, in entries like `"vae": ["diffusers", "AutoencoderKL"]`."""
    return [
        name for name, value in model_index.items() if isinstance(value, list) and any(v is not None for v in value)
    ]


def explain(error: Exception, repo: str) -> str:
    """Return a message that states the problem and the remedy."""
    hub = constants.ENDPOINT
    match error:
        case GatedRepoError():
            text = (
                f"{repo} is a gated model. Accept its terms at {hub}/{repo}, create a token that may read it, "
                "and set HF_TOKEN to that token."
            )
        case RepositoryNotFoundError():
            text = (
                f"The hub has no model {repo}, or the model is private. Check the name, "
                "or set HF_TOKEN to a token that may read it."
            )
        case HFValidationError():
            text = f"{repo!r} is not a model name. A model name looks like black-forest-labs/FLUX.1-dev."
        case httpx.TransportError() | OfflineModeIsEnabled() | LocalEntryNotFoundError():
            text = (
                f"Cannot reach {hub}, and {constants.HF_HUB_CACHE} holds no complete copy of {repo}. "
                "Check the network, HTTPS_PROXY and HF_HUB_OFFLINE, and run the command again. It resumes the download."
            )
        case HfHubHTTPError() if error.response.status_code == httpx.codes.UNAUTHORIZED:
            text = f"{hub} rejects the token. Set HF_TOKEN to a valid token, or unset it."
        case HfHubHTTPError():
            status = error.response.status_code
            text = f"{hub} answered {status} for {repo}. Run the command again later. It resumes the download."
        case _:
            text = f"Cannot download {repo}: {error}"
    return text
