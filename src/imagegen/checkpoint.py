"""Find a model's folder in diffusers' layout, check that it is complete, and count its parameters.

Nothing is downloaded, and only the headers of the weight files are read. Code in a model folder is never run.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from imagegen.errors import LoadError, WeightsMissing
from imagegen.model_files import BadFile, LfsPointer, check_head, check_json, count_parameters, read_object

BUNDLED = Path(__file__).with_name("bundled")
FLUX_DEV = "black-forest-labs/FLUX.1-dev"

Origin = Literal["bundled", "folder", "hub"]

Progress = Callable[[str, float | None, float | None], None]
"""Called with the name of the current stage, the bytes read, and their total; None where they are unknown."""

_VARIANTS = (None, "fp16", "bf16", "fp32")  # in order of preference
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "tekken.json"}
_NO_REMOTE_CODE = "Code in model folders is never run. Use a model that loads without trust_remote_code."
_QUANTIZERS = {  # the package and its module that load weights of a quantisation method
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "torchao": ("torchao", "torchao"),
    "gguf": ("gguf", "gguf"),
    "quanto": ("optimum-quanto", "optimum"),
    "modelopt": ("nvidia-modelopt", "modelopt"),
    "auto-round": ("auto-round", "auto_round"),
    "nunchaku_lite": ("kernels", "kernels"),
    "sdnq": ("sdnq", "sdnq"),
    "gptq": ("gptqmodel", "gptqmodel"),
    "awq": ("gptqmodel", "gptqmodel"),
    "hqq": ("hqq", "hqq"),
    "compressed-tensors": ("compressed-tensors", "compressed_tensors"),
}


class Component(NamedTuple):
    """A component of a pipeline that has weights."""

    library: str
    """The module that the class is imported from: `diffusers`, `transformers`, or one of diffusers' pipelines."""
    class_name: str
    parameters: int
    """Number of parameters; integers and quantised weights count as in `model_files.count_parameters`."""
    variant: str | None
    """The variant of the weight files, such as `fp16`; None for the plain files."""
    quantization: str | None = None
    """The method by which the weights are quantised, such as `bitsandbytes`; None for weights that are not."""
    safetensors: bool = True
    """Whether the weights are in safetensors files, not in `.bin` files of PyTorch."""


def default_source(*, has_gpu: bool) -> str:
    """Return the source of the default model: FLUX.1-dev with a GPU, else the bundled one."""
    return FLUX_DEV if has_gpu else str(BUNDLED)


def find(source: str) -> tuple[Path, Origin]:
    """Return the folder of a model, and where it came from.

    `source` is a folder, `bundled`, or a Hugging Face ID in this machine's cache. Raises LoadError if it is none of
    these, and WeightsMissing if the weights are not in the cache.
    """
    try:
        folder = BUNDLED if source == "bundled" else Path(source).expanduser()
        if (folder / "model_index.json").is_file():
            return folder, "bundled" if folder == BUNDLED else "folder"
        is_hub_id = source.count("/") == 1 and not source.startswith(("/", "~", ".")) and not folder.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a user without a home
        raise LoadError(f"{source!r} cannot be opened: {error}. Pass a folder or a Hugging Face ID.") from None
    if not is_hub_id:
        raise LoadError(
            f"{source!r} is not a model in diffusers' layout: it has no model_index.json. "
            "Pass a folder that has one, a Hugging Face ID, or 'bundled'."
        )
    return _find_in_cache(source), "hub"


def _find_in_cache(repository: str) -> Path:
    """Return the cached snapshot of a model. Files that no loader reads, such as a second copy, may be absent."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    try:
        index = try_to_load_from_cache(repository, "model_index.json")
    except HFValidationError:
        raise LoadError(f"{repository!r} is neither a folder nor a Hugging Face ID.") from None
    if isinstance(index, str):
        return Path(index).parent
    if (Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")).is_dir():
        problem = "has no model_index.json in the cache: it is incomplete, or not in diffusers' layout"
        raise WeightsMissing(f"{repository} {problem}. {_download(repository)}")
    raise WeightsMissing(f"The weights of {repository} are not on this machine. {_download(repository)}")


def _download(repository: str) -> str:
    return f"Get them with: chutes download {repository}"


@contextmanager
def _explained(folder: Path, repository: str | None) -> Iterator[None]:
    """Turn BadFile into a LoadError of one line that names the model and the file, and says what to do."""
    try:
        yield
    except BadFile as bad:
        name = repository or str(folder)
        file = bad.file.relative_to(folder)
        if bad.remedy:
            remedy = bad.remedy
        elif repository:
            remedy = _download(repository)
        elif isinstance(bad, LfsPointer):
            remedy = "Run `git lfs pull` in this folder."
        elif bad.missing:
            remedy = "Copy all files of the model into this folder."
        else:
            remedy = "Copy or download this file again."
        prefix = f"The weights of {name} are incomplete" if bad.missing else f"{name} cannot be loaded"
        message = " ".join(f"{prefix}: {file} {bad.problem}. {remedy}".split())
        raise (WeightsMissing if bad.missing else LoadError)(message) from None
    except OSError as error:
        raise LoadError(f"{repository or folder} cannot be read: {error}. Check the folder's permissions.") from None


def pipeline_class(folder: Path) -> str:
    """Return the name of the diffusers pipeline class that loads a folder."""
    with _explained(folder, None):
        return str(_read_index(folder)["_class_name"])


def _read_index(folder: Path) -> dict[str, Any]:
    """Return the contents of model_index.json, whose `_class_name` is a string."""
    file = folder / "model_index.json"
    index = read_object(file)
    match index.get("_class_name"):
        case str(name) if name.isidentifier():
            return index
        case list():
            problem = "names a pipeline class in the folder's own code"
            raise BadFile(file, problem, remedy=_NO_REMOTE_CODE)
        case _:
            raise BadFile(file, "has no _class_name that is the name of a pipeline class")


def components(folder: Path, *, repository: str | None = None) -> dict[str, Component]:
    """Return the components that have weights, by name.

    `repository` is the Hugging Face ID that the folder was downloaded from, if it was. Raises WeightsMissing if a file
    is missing or truncated, and LoadError if the folder cannot be loaded for another reason.
    """
    found = {}
    with _explained(folder, repository):
        for name, entry in _read_index(folder).items():
            match entry:
                case [str(library), str(class_name)] if name.isidentifier() and not name.startswith("_"):
                    if component := _check_component(folder, name, library, class_name):
                        found[name] = component
                case _:  # an absent component, or an argument of the pipeline
                    continue
    return found


def _check_component(folder: Path, name: str, library: str, class_name: str) -> Component | None:
    """Check the files of a component. Return None if it has no weights: a tokenizer, a scheduler or a processor."""
    part = folder / name
    if not part.is_dir():
        raise BadFile(part, "is missing", missing=True)
    names = _check_texts(part)
    _refuse_code(part, names, library, class_name)
    if not _is_known(library):
        problem = f"takes {name} from {library!r}, which is neither diffusers nor transformers"
        raise BadFile(folder / "model_index.json", problem, remedy=_NO_REMOTE_CODE)
    if "model_index.json" in names:  # a pipeline in a pipeline
        return None
    if "Scheduler" in class_name:
        read_object(part / "scheduler_config.json")
    elif "Tokenizer" in class_name:
        has_vocabulary = names & _VOCABULARIES or any(each.endswith((".model", ".tiktoken")) for each in names)
        if not has_vocabulary and not class_name.startswith("ByT5"):  # its tokens are bytes
            raise BadFile(part, "has no vocabulary, such as tokenizer.json", missing=True)
    elif "Processor" in class_name or "FeatureExtractor" in class_name:
        if not any(each.endswith(".json") for each in names):
            raise BadFile(part, "has no preprocessor_config.json", missing=True)
    else:
        return _check_model(part, library, class_name)
    return None


def _refuse_code(part: Path, names: set[str], library: str, class_name: str) -> None:
    """Raise BadFile if a component's class is in the model's folder."""
    if f"{library}.py" in names:
        raise BadFile(part / f"{library}.py", f"is code for {class_name}", remedy=_NO_REMOTE_CODE)
    for file in {"config.json", "tokenizer_config.json"} & names:
        auto_map = read_object(part / file).get("auto_map")
        if isinstance(auto_map, dict) and class_name in auto_map:
            raise BadFile(part / file, f"names code for {class_name} in auto_map", remedy=_NO_REMOTE_CODE)


def _is_known(library: str) -> bool:
    """Return whether diffusers takes classes from a library: its own pipelines', or one that is already imported."""
    if library in {"diffusers", "transformers"} or library in sys.modules:
        return True
    spec = find_spec("diffusers")
    if spec is None or spec.origin is None or not library.isidentifier():
        return False
    return (Path(spec.origin).parent / "pipelines" / library).is_dir()


def _check_texts(part: Path) -> set[str]:
    """Check the configurations and vocabularies of a component, and return the names of all its files."""
    names = {each.name for each in part.iterdir() if not each.name.startswith(".")}
    for name in sorted(names):
        if name.endswith(".json"):
            check_json(part / name)
        elif name.endswith((".model", ".txt")):
            check_head(part / name)
    return names


def _check_model(part: Path, library: str, class_name: str) -> Component:
    """Check the configuration and the weight files of a model."""
    quantization = _quantization(part / "config.json")
    files, variant = weight_files(part)
    if not files:
        others = sorted(each.name for each in part.iterdir() if each.suffix not in {".json", ".md", ".txt"})
        problem = "has no weights that diffusers reads" + (f", only {', '.join(others[:3])}" if others else "")
        raise BadFile(part, problem, missing=True)
    parameters = sum(count_parameters(file, quantized=quantization is not None) for file in files)
    safetensors = files[0].suffix == ".safetensors"
    return Component(library, class_name, parameters, variant, quantization, safetensors)


def _quantization(file: Path) -> str | None:
    """Return the quantisation method in a model's config.json. Raise BadFile if its package is not installed."""
    config = read_object(file).get("quantization_config")
    if not isinstance(config, dict):
        return None
    is_bitsandbytes = config.get("load_in_4bit") or config.get("load_in_8bit")
    method = str(config.get("quant_method") or ("bitsandbytes" if is_bitsandbytes else "unknown"))
    package, module = _QUANTIZERS.get(method, ("", ""))
    if module and find_spec(module) is None:
        problem = f"describes weights that are quantised with {method}, whose package is not installed"
        raise BadFile(file, problem, remedy=f"Install it with: pip install {package}")
    return method


def weight_files(folder: Path) -> tuple[list[Path], str | None]:
    """Return the weight files of a component, sharded or not, and their variant; no files if there are none.

    They are the files that diffusers or transformers read: safetensors before `.bin`, plain files before variants.
    Raises BadFile if the index of the shards cannot be used.
    """
    for suffix, transformers_base in ((".safetensors", "model"), (".bin", "pytorch_model")):
        for variant in _VARIANTS:
            dotted = f".{variant}" if variant else ""
            file, index = f"{{}}{dotted}{suffix}", f"{{}}{suffix}.index{dotted}.json"
            base, other = transformers_base, "diffusion_pytorch_model"  # diffusers reads an index before a single file
            for name in (file.format(base), index.format(base), index.format(other), file.format(other)):
                if (found := folder / name).exists():
                    return (_shards(found) if name.endswith(".json") else [found]), variant
    return [], None


def _shards(index: Path) -> list[Path]:
    """Return the files that the index of a sharded checkpoint names."""
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BadFile(index, "names no files in weight_map")
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
            raise BadFile(index, f"names {name!r}, which is no file of this folder")
    return [index.parent / name for name in sorted(set(shards.values()))]


def read_description(folder: Path) -> dict[str, object]:
    """Return the contents of `imagegen.json` in a model's folder, or an empty dict.

    Key `name` is the model's name. Keys `native_size` and `profile` are those of `known_models.find_profile`.
    """
    file = folder / "imagegen.json"
    with _explained(folder, None):
        return read_object(file) if file.exists() else {}
