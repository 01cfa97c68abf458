"""Find a model's folder in diffusers' layout, check that it is complete, and count its parameters.

Nothing is downloaded, and only the headers of the weight files are read.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from imagegen.errors import LoadError, WeightsMissing

BUNDLED = Path(__file__).with_name("bundled")
FLUX_DEV = "black-forest-labs/FLUX.1-dev"

Origin = Literal["bundled", "folder", "hub"]

Progress = Callable[[str, float | None, float | None], None]
"""Called with the name of the current stage, the bytes read, and their total; None where they are unknown."""


class Component(NamedTuple):
    """A component of a pipeline that has weights."""

    library: str
    """The module that the class is imported from, such as `diffusers`."""
    class_name: str
    parameters: int
    """Number of parameters."""
    variant: str | None
    """The variant of the weight files, such as `fp16`; None for the plain files."""


def default_source(*, has_gpu: bool) -> str:
    """Return the source of the default model: FLUX.1-dev with a GPU, else the bundled one."""
    return FLUX_DEV if has_gpu else str(BUNDLED)


def find(source: str) -> tuple[Path, Origin]:
    """Return the folder of a model, and where it came from.

    `source` is a folder, `bundled`, or a Hugging Face ID in this machine's cache. Raises LoadError if it is none of
    these, and WeightsMissing if the weights are not in the cache.
    """
    folder = BUNDLED if source == "bundled" else Path(source).expanduser()
    if (folder / "model_index.json").is_file():
        return folder, "bundled" if folder == BUNDLED else "folder"
    if folder.exists() or source.count("/") != 1 or source.startswith(("/", "~", ".")):
        raise LoadError(
            f"{source!r} is not a model in diffusers' layout: it has no model_index.json. "
            "Pass a folder that has one, a Hugging Face ID, or 'bundled'."
        )
    return _find_in_cache(source), "hub"


def _find_in_cache(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except HFValidationError:
        raise LoadError(f"{repository!r} is neither a folder nor a Hugging Face ID.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise WeightsMissing(f"The weights of {repository} are not on this machine. {_download(repository)}") from None
    if not (folder / "model_index.json").is_file():
        raise _incomplete(repository, "no model_index.json", _download(repository))
    return folder


def _download(repository: str) -> str:
    return f"Get them with: chutes download {repository}"


def _incomplete(name: str, reason: str, remedy: str) -> WeightsMissing:
    return WeightsMissing(f"The weights of {name} are incomplete: {reason}. {remedy}")


def pipeline_class(folder: Path) -> str:
    """Return the name of the diffusers pipeline class that loads a folder."""
    return str(json.loads((folder / "model_index.json").read_text())["_class_name"])


def components(folder: Path, *, repository: str | None = None) -> dict[str, Component]:
    """Return the components that have weights, by name. Raises WeightsMissing if a file is missing.

    `repository` is the Hugging Face ID that the folder was downloaded from, if it was.
    """
    name = repository or str(folder)
    remedy = _download(repository) if repository else "Copy all files of the model into this folder."
    index = json.loads((folder / "model_index.json").read_text())
    found = {}
    for part, entry in index.items():
        if part.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        if not (folder / part).is_dir():
            raise _incomplete(name, f"no {part}", remedy)
        if not (folder / part / "config.json").is_file():
            continue  # a tokenizer or a scheduler
        files, variant = weight_files(folder / part)
        if not files or not all(file.is_file() for file in files):
            raise _incomplete(name, f"{part} lacks files", remedy)
        found[part] = Component(entry[0], entry[1], sum(map(_parameters, files)), variant)
    return found


def weight_files(folder: Path) -> tuple[list[Path], str | None]:
    """Return the safetensors files of a component, sharded or not, and their variant; no files if there are none."""
    for variant, suffix in ((None, ""), ("fp16", ".fp16"), ("bf16", ".bf16")):
        for index in folder.glob(f"*.safetensors.index{suffix}.json"):
            shards = json.loads(index.read_text())["weight_map"].values()
            return [folder / shard for shard in sorted(set(shards))], variant
        for base in ("model", "diffusion_pytorch_model"):
            if (file := folder / f"{base}{suffix}.safetensors").is_file():
                return [file], variant
    return [], None


def _parameters(file: Path) -> int:
    """Count the parameters in a safetensors file from its header."""
    return sum(math.prod(shape) for shape in _shapes(file))


def _shapes(file: Path) -> Iterator[list[int]]:
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    return (tensor["shape"] for name, tensor in header.items() if name != "__metadata__")


def read_description(folder: Path) -> dict[str, object]:
    """Return the contents of `imagegen.json` in a model's folder, or an empty dict.

    Key `name` is the model's name. Key `native_size` is the longest side, in pixels, of the images that the model
    generates.
    """
    file = folder / "imagegen.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}
