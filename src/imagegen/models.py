"""Load a model: find its files, check that the machine can hold it, read the weights, and build its pipelines.

Any text-to-image pipeline of diffusers works. Text to image, image to image and inpainting share one set of components.
Only this module chooses between `imagegen.flux` and diffusers' own modules.
"""

import importlib
import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from imagegen import checkpoint, flux, memory
from imagegen.canvas import Sizes
from imagegen.checkpoint import Progress
from imagegen.errors import LoadError
from imagegen.settings import MemoryPlan, Settings

if TYPE_CHECKING:
    from imagegen.flux.pipeline import FastPath

log = logging.getLogger(__name__)

_FLUX_PREFIX = "black-forest-labs/FLUX."  # of Hugging Face IDs; all of these models are large
_LARGE_MODEL = 20e9  # bytes of weights above which `requirements` apply


@dataclass
class Model:
    """A loaded model: pipelines that share their components, and how to use them.

    - `text2image`, `img2img`, `inpaint`: diffusers pipelines; None where diffusers has none for this model.
    - `sizes`: the sizes that the model generates.
    - `max_sequence_length`: number of tokens to which the text encoder pads or truncates a prompt.
    - `plan`: where the weights are kept; None on a machine without a GPU.
    - `info`: values that `/ready` reports: model, origin, device, precision, memory plan, native size, and more.
    - `fast_path`: the parts of `imagegen.flux` that the engine uses; None if diffusers' own modules run.
    """

    name: str
    text2image: Any
    img2img: Any | None
    inpaint: Any | None
    sizes: Sizes
    max_sequence_length: int
    plan: MemoryPlan | None
    info: dict[str, object]
    fast_path: "FastPath | None" = None


class _ModelFiles(NamedTuple):
    """A model's files on this machine, and what they say about it."""

    folder: Path
    origin: checkpoint.Origin
    name: str
    description: dict[str, object]
    """See `checkpoint.read_description`."""
    components: dict[str, checkpoint.Component]

    @property
    def weights(self) -> dict[str, int]:
        """Bytes of each component in bf16."""
        return {name: 2 * component.parameters for name, component in self.components.items()}


def load(
    source: str | None = None,
    *,
    settings: Settings | None = None,
    requirements: memory.GpuRequirements | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Model:
    """Load a model: a folder in diffusers' layout, a Hugging Face ID in the cache, or `bundled`.

    Nothing is downloaded.

    Args:
        source: The model; None means the one that `settings` name.
        settings: The settings; None means those of the environment.
        requirements: The GPUs that the machine must have for a large model; ignored if the settings choose a memory
            plan.
        progress: Called with a stage and the bytes that were read and are to be read, while the model loads.

    Raises:
        LoadError: The model cannot be loaded. The message is one line that says what to do.
    """
    settings = settings or Settings.read()
    gpus = memory.gpus()
    files = _find(source or settings.model, gpus, None if settings.memory else requirements)
    plan = _choose_plan(gpus, files.weights, settings)
    fast = plan == "resident" and checkpoint.pipeline_class(files.folder) == "FluxPipeline" and flux.supported()
    if not fast:
        _silence_libraries()  # imports transformers, whose time does not count as loading
    began = time.perf_counter()
    if fast:
        pipeline, fast_path = _load_fast(files.folder, settings, progress)
    else:
        pipeline, fast_path = _load_with_diffusers(files, settings, plan, progress), None
    model = _assemble(pipeline, fast_path, files.name, files.description, settings, plan)
    model.info = _info(model, files, gpus, time.perf_counter() - began)
    log.info("Loaded %s: %s", files.name, ", ".join(f"{key} {value}" for key, value in model.info.items()))
    return model


def _find(source: str | None, gpus: list[memory.Gpu], requirements: memory.GpuRequirements | None) -> _ModelFiles:
    """Find a model's files. For a large model, check the machine as early as the model's size is known."""
    source = source or checkpoint.default_source(has_gpu=bool(gpus))
    if requirements and source.startswith(_FLUX_PREFIX):
        memory.check(gpus, requirements)
    folder, origin = checkpoint.find(source)
    description = checkpoint.read_description(folder)
    name = str(description.get("name") or (source if origin == "hub" else folder.name))
    components = checkpoint.components(folder, repository=source if origin == "hub" else None)
    files = _ModelFiles(folder, origin, name, description, components)
    if requirements and sum(files.weights.values()) > _LARGE_MODEL:
        memory.check(gpus, requirements)
    return files


def _choose_plan(gpus: list[memory.Gpu], weights: dict[str, int], settings: Settings) -> MemoryPlan | None:
    """Return the memory plan; None on a machine without a GPU."""
    if not gpus:
        if settings.precision != "bf16":
            raise LoadError(
                f"IMAGEGEN_PRECISION={settings.precision} needs a GPU, and this machine has none. "
                "Set IMAGEGEN_PRECISION=bf16."
            )
        return None
    if settings.memory is not None and settings.memory != "auto":
        return settings.memory
    if settings.precision != "bf16" and "transformer" in weights:
        weights = {**weights, "transformer": weights["transformer"] // 2}
    return memory.choose_plan(gpus[0].memory, weights)


def _load_fast(folder: Path, settings: Settings, progress: Progress) -> "tuple[Any, FastPath]":
    """Load FLUX.1 into `imagegen.flux`. Its transformer is read while the libraries for the rest are imported."""
    from imagegen.flux import pipeline as fast

    with _switch_threads_often(), ThreadPoolExecutor(1, "imagegen-reading") as thread:
        precision = settings.precision
        transformer = thread.submit(
            fast.read_transformer,
            folder,
            precision=precision,
            progress=progress,
            text_length=settings.max_sequence_length,
        )
        _silence_libraries()
        import diffusers

        pipeline_class = diffusers.FluxPipeline
        return fast.load(pipeline_class, folder, precision=precision, progress=progress, transformer=transformer)


@contextmanager
def _switch_threads_often() -> Iterator[None]:
    """Shorten Python's switch interval of 5 ms: threads that read weights take the GIL thousands of times."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _load_with_diffusers(files: _ModelFiles, settings: Settings, plan: MemoryPlan | None, progress: Progress) -> Any:
    """Load a pipeline with diffusers, component by component, and apply the memory plan."""
    import diffusers

    class_name = checkpoint.pipeline_class(files.folder)
    pipeline_class = getattr(diffusers, class_name, None)
    if pipeline_class is None:
        raise LoadError(
            f"{files.name} needs diffusers' class {class_name}, which version {diffusers.__version__} does not have. "
            "Upgrade diffusers."
        )
    if settings.precision != "bf16":
        raise LoadError(
            f"IMAGEGEN_PRECISION={settings.precision} works only for FLUX.1 on a GPU that holds all its weights. "
            "Set IMAGEGEN_PRECISION=bf16."
        )
    dtype = torch.bfloat16 if plan else torch.float32
    total, done = sum(component.parameters for component in files.components.values()) * dtype.itemsize, 0
    loaded = {}
    for name, component in files.components.items():
        progress(f"reading {name}", done, total)
        component_class = getattr(importlib.import_module(component.library), component.class_name)
        loaded[name] = component_class.from_pretrained(files.folder / name, dtype=dtype, variant=component.variant)
        done += component.parameters * dtype.itemsize
    progress("assembling the pipeline", done, total)
    pipeline = pipeline_class.from_pretrained(files.folder, dtype=dtype, local_files_only=True, **loaded)
    if plan:
        progress("moving the weights to the GPU", None, None)
        memory.apply_plan(pipeline, plan)
    return pipeline


def _assemble(
    pipeline: Any,
    fast_path: "FastPath | None",
    name: str,
    description: dict[str, object],
    settings: Settings,
    plan: MemoryPlan | None,
) -> Model:
    """Return the model: the loaded pipeline, and pipelines for the other tasks from its components."""
    pipeline.set_progress_bar_config(disable=True)
    length = settings.max_sequence_length
    if tokenizer := getattr(pipeline, "tokenizer_2", None) or getattr(pipeline, "tokenizer", None):
        length = min(length, tokenizer.model_max_length)
    return Model(
        name=name,
        text2image=pipeline,
        img2img=_sibling(pipeline, "Img2ImgPipeline"),
        inpaint=_sibling(pipeline, "InpaintPipeline"),
        sizes=_sizes(pipeline, description),
        max_sequence_length=length,
        plan=plan,
        info={},
        fast_path=fast_path,
    )


def _sibling(pipeline: Any, ending: str) -> Any | None:
    """Return the pipeline for another task, by diffusers' naming scheme; None if diffusers has none for this model."""
    import diffusers

    pipeline_class = getattr(diffusers, type(pipeline).__name__.replace("Pipeline", ending), None)
    if pipeline_class is None:
        return None
    sibling = pipeline_class(**pipeline.components)
    sibling.set_progress_bar_config(disable=True)
    return sibling


def _sizes(pipeline: Any, description: dict[str, object]) -> Sizes:
    """Return the sizes that a model generates.

    The longest side is fixed if the description has a `native_size`. Otherwise FLUX generates any size, and other
    models generate about the area of their default size.
    """
    multiple = 2 * pipeline.vae_scale_factor  # two latent pixels make one patch
    if native := description.get("native_size"):
        return Sizes(multiple, longest_side=int(str(native)))
    if type(pipeline).__name__.startswith("Flux"):
        return Sizes(multiple)
    latent = getattr(pipeline, "default_sample_size", None)
    return Sizes(multiple, area=(latent * pipeline.vae_scale_factor) ** 2 if isinstance(latent, int) else 1024**2)


def _info(model: Model, files: _ModelFiles, gpus: list[memory.Gpu], seconds: float) -> dict[str, object]:
    """Return the values that `/ready` reports about the model."""
    return {
        "model": model.name,
        "origin": files.origin,
        "device": gpus[0].name if model.plan else "cpu",
        "precision": "bf16" if model.plan else "fp32",
        "memory_plan": model.plan or "cpu",
        "native_size": files.description.get("native_size"),
        "pipelines": [task for task in ("text2image", "img2img", "inpaint") if getattr(model, task)],
        "loaded_in_seconds": round(seconds, 2),
        **(model.fast_path.info if model.fast_path else {}),
    }


def _silence_libraries() -> None:
    """Turn off the libraries' progress bars and hints: `progress` reports instead."""
    import transformers.utils.logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    transformers.utils.logging.set_verbosity_error()  # before diffusers is imported, which makes it print hints
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bars()
    import diffusers.utils.logging

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
