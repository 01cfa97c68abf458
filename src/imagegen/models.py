"""Loading a model: which one, from where, in which precision, and whether this machine can hold it.

Every pipeline of diffusers that turns text into an image will do. Text-to-image, image-to-image and
inpainting share one set of components. Only here is `imagegen.flux` chosen over diffusers' own modules.
"""

import importlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from imagegen import checkpoint, flux, memory
from imagegen.canvas import Sizes
from imagegen.errors import LoadError
from imagegen.settings import Settings

if TYPE_CHECKING:
    from imagegen.flux.pipeline import FastPath

log = logging.getLogger(__name__)

Progress = Callable[[str, float | None, float | None], None]
"""Called with what is going on, and the bytes done and to do where they are known."""

_LARGE = 20e9  # bytes of weights from which a chute's demands on the machine are meant


@dataclass
class Model:
    """Pipelines that share their components, and what an engine needs to know to use them."""

    name: str
    text2image: Any
    img2img: Any | None
    inpaint: Any | None
    sizes: Sizes
    max_sequence_length: int
    plan: memory.Plan | None
    info: dict[str, object]
    """What `/ready` tells: model, origin, device, precision, memory plan, native size, ..."""
    fast_path: "FastPath | None" = None
    """The hooks of `imagegen.flux`; None where diffusers' own modules run."""


def load(
    source: str | None = None,
    *,
    settings: Settings | None = None,
    needs: memory.Needs | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Model:
    """Load the model that `source` or the settings name: a pipeline folder or a hub id in the cache.

    `needs` is checked before anything is read, if the model is one that needs it (FLUX.1) and no memory plan
    was chosen by hand. Raises `LoadError` with one line that says what to do.
    """
    settings = settings or Settings.read()
    found = memory.gpus()
    source = source or settings.model or checkpoint.default_source(has_gpu=bool(found))
    checked = needs is not None and settings.memory is None
    if checked and needs and source.startswith("black-forest-labs/FLUX."):
        memory.check(found, needs)
    folder, origin = checkpoint.find(source)
    about = checkpoint.about(folder)
    name = str(about.get("name") or (source if origin == "hub" else folder.name))
    parts = checkpoint.components(folder, name=source if origin == "hub" else name)
    weights = {part: 2 * each.parameters for part, each in parts.items()}
    if checked and needs and sum(weights.values()) > _LARGE:
        memory.check(found, needs)
    plan = _plan(found, weights, settings)
    fast = plan == "resident" and checkpoint.kind(folder) == "FluxPipeline" and flux.supported()
    if fast:
        began = time.perf_counter()
        pipeline, ran, fast_path = _read_fast(folder, settings, progress)
    else:
        _quiet()
        began = time.perf_counter()
        pipeline, ran, fast_path = *_read(folder, parts, settings, plan, progress), None
    pipeline.set_progress_bar_config(disable=True)
    model = _assemble(pipeline, name, about, settings, plan)
    model.fast_path = fast_path
    model.info = {
        "model": name,
        "origin": origin,
        "device": found[0].name if plan else "cpu",
        "precision": "bf16" if plan else "fp32",
        "memory_plan": plan or "cpu",
        "native_size": about.get("native_size"),
        "pipelines": [task for task in ("text2image", "img2img", "inpaint") if getattr(model, task)],
        "loaded_in_seconds": round(time.perf_counter() - began, 2),
        **ran,
    }
    log.info("loaded %s: %s", name, ", ".join(f"{key} {value}" for key, value in model.info.items()))
    return model


def _plan(found: list[memory.Gpu], weights: dict[str, int], settings: Settings) -> memory.Plan | None:
    """Where the weights will live; None on a machine without a GPU."""
    if not found:
        if settings.precision != "bf16":
            raise LoadError(f"IMAGEGEN_PRECISION={settings.precision} needs a GPU; this machine has none")
        return None
    if settings.memory not in {None, "auto"}:
        return settings.memory  # type: ignore[return-value]  # narrowed by the line before
    if settings.precision != "bf16" and "transformer" in weights:
        weights = {**weights, "transformer": weights["transformer"] // 2}
    return memory.choose(found[0].memory, weights)


def _read_fast(folder: Path, settings: Settings, progress: Progress) -> "tuple[Any, dict[str, str], FastPath]":
    """Read FLUX.1 into `imagegen.flux`, its transformer while the libraries for the rest are being imported."""
    from imagegen.flux import pipeline as fast

    with _often_switching(), ThreadPoolExecutor(1, "imagegen-reading") as thread:
        precision, text = settings.precision, settings.max_sequence_length
        transformer = thread.submit(fast.read_transformer, folder, precision=precision, progress=progress, text=text)
        _quiet()
        import diffusers

        kind = diffusers.FluxPipeline
        pipeline, ran = fast.load(kind, folder, precision=precision, progress=progress, transformer=transformer)
        return pipeline, ran, fast.fast_path(pipeline)


@contextmanager
def _often_switching() -> Iterator[None]:
    """Let no thread keep Python for long: each read of some weights would wait for it, and there are thousands."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _read(
    folder: Path,
    parts: dict[str, checkpoint.Component],
    settings: Settings,
    plan: memory.Plan | None,
    progress: Progress,
) -> tuple[Any, dict[str, str]]:
    """Read a pipeline from its folder and put it where the plan says."""
    import diffusers

    kind = getattr(diffusers, checkpoint.kind(folder), None)
    if kind is None:
        raise LoadError("the model's pipeline class is unknown to the installed diffusers")
    if settings.precision != "bf16":
        raise LoadError(
            f"IMAGEGEN_PRECISION={settings.precision} is for FLUX.1 on a recent GPU with room for all of it"
        )
    dtype = torch.bfloat16 if plan else torch.float32
    size = dtype.itemsize
    total, done = sum(part.parameters for part in parts.values()) * size, 0
    read = {}
    for name, part in parts.items():
        progress(f"reading {name}", done, total)
        load_class = getattr(importlib.import_module(part.library), part.kind)
        read[name] = load_class.from_pretrained(folder / name, dtype=dtype, variant=part.variant)
        done += part.parameters * size
    progress("putting the pipeline together", done, total)
    pipeline = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, **read)
    if plan:
        progress("moving the weights to the GPU", None, None)
        memory.place(pipeline, plan)
    return pipeline, {}


def _assemble(
    pipeline: Any, name: str, about: dict[str, object], settings: Settings, plan: memory.Plan | None
) -> Model:
    """Make the other pipelines from the components of the first, and find out what sizes it draws."""
    length = settings.max_sequence_length
    if tokenizer := getattr(pipeline, "tokenizer_2", None) or getattr(pipeline, "tokenizer", None):
        length = min(length, tokenizer.model_max_length)
    return Model(
        name=name,
        text2image=pipeline,
        img2img=_sibling(pipeline, "Img2ImgPipeline"),
        inpaint=_sibling(pipeline, "InpaintPipeline"),
        sizes=_sizes(pipeline, about),
        max_sequence_length=length,
        plan=plan,
        info={},
    )


def _sibling(pipeline: Any, ending: str) -> Any | None:
    """Make the pipeline for another task, by diffusers' naming; None where it has none for this model."""
    import diffusers

    kind = getattr(diffusers, type(pipeline).__name__.replace("Pipeline", ending), None)
    if kind is None:
        return None
    sibling = kind(**pipeline.components)
    sibling.set_progress_bar_config(disable=True)
    return sibling


def _sizes(pipeline: Any, about: dict[str, object]) -> Sizes:
    """FLUX.1 draws any size; other models only near the one they were made for."""
    multiple = 2 * pipeline.vae_scale_factor  # two latent pixels make one patch
    if native := about.get("native_size"):
        return Sizes(multiple, side=int(str(native)))
    if type(pipeline).__name__.startswith("Flux"):
        return Sizes(multiple)
    latent = getattr(pipeline, "default_sample_size", None)
    return Sizes(multiple, area=(latent * pipeline.vae_scale_factor) ** 2 if isinstance(latent, int) else 1024**2)


def _quiet() -> None:
    """Progress is told through `progress`; the libraries' own bars and advice would only disturb the log."""
    import transformers.utils.logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    transformers.utils.logging.set_verbosity_error()  # before diffusers makes it import, and advise
    transformers.utils.logging.disable_progress_bar()
    disable_progress_bars()
    import diffusers.utils.logging

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
