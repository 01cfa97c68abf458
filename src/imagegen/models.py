"""Load a model: find its files, check that the machine can hold it, read the weights, and build its pipelines.

Any text-to-image, edit or inpainting pipeline of diffusers works. The pipelines of all tasks share one set of
components. Only this module chooses between `imagegen.flux` and diffusers' own modules.
"""

import inspect
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from imagegen import checkpoint, flux, known_models, memory, missing_weights, processors, schedulers, tasks
from imagegen.checkpoint import Progress
from imagegen.errors import InputError, LoadError
from imagegen.profile import FLUX_DEV, Profile
from imagegen.request import Task
from imagegen.settings import MemoryPlan, Settings

if TYPE_CHECKING:
    from imagegen.flux.pipeline import FastPath

log = logging.getLogger(__name__)

_FLUX_PREFIX = "black-forest-labs/FLUX.1-"  # of Hugging Face IDs; all of these models are large
_FLUX_CLASSES = ("FluxPipeline", "FluxFillPipeline", "FluxKontextPipeline")  # with FLUX.1's transformer
_MAX_NAME = 200  # characters
_LARGE_MODEL = 20e9  # bytes of weights above which `requirements` apply


@dataclass
class Model:
    """A loaded model: pipelines that share their components, and how to use them.

    - `origin`: where the weights came from.
    - `precision`: the arithmetic, such as `bf16`.
    - `pipeline`: the diffusers pipeline that was loaded; the others share its components.
    - `pipelines`: a pipeline for each task that the model can do.
    - `scheduler`: the model's default. Each image gets a copy of it, or the scheduler that its request names.
    - `profile`: the defaults and bounds of requests, and the sizes that the model generates.
    - `plan`: where the weights are kept; None on a machine without a GPU.
    - `info`: values that `/ready` reports: model, origin, device, precision, memory plan, native size, and more.
    - `fast_path`: the parts of `imagegen.flux` that the engine uses; None if diffusers' own modules run.
    - `scheduler_name`: the name of `scheduler` in the settings; None if it is the one in the model's folder.
    """

    name: str
    origin: checkpoint.Origin
    precision: str
    pipeline: Any
    pipelines: dict[Task, Any]
    scheduler: Any
    profile: Profile
    plan: MemoryPlan | None
    info: dict[str, object]
    fast_path: "FastPath | None" = None
    scheduler_name: str | None = None

    def arguments(self, task: Task) -> Mapping[str, inspect.Parameter]:
        """Return the arguments that a task's pipeline accepts."""
        return inspect.signature(self.pipelines[task].__call__).parameters

    def unread_tokens(self, prompt: str) -> int:
        """Return how many of a prompt's tokens are beyond the number that the model reads.

        A chat template may take further tokens, which are not counted.
        """
        limit = self.profile.tokens
        if len(prompt.encode()) < limit:  # a token has at least one byte; most prompts end here
            return 0
        from transformers import PreTrainedTokenizerBase

        tokenizer = known_models.main_tokenizer(self.pipeline)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            return 0
        return max(0, len(tokenizer(prompt, truncation=False)["input_ids"]) - limit)


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
        requirements: The GPUs that a large model needs. They apply to `source`; without a source, only to FLUX.1.
            Ignored if `settings.memory` is set.
        progress: Called with a stage and the bytes that were read and are to be read, while the model loads.

    Raises:
        LoadError: The model cannot be loaded. The message is one line that says what to do.
    """
    settings = settings or Settings.read()
    gpus = memory.gpus()
    required = None if settings.memory else requirements
    files = _find(source or settings.model, gpus, required, only_flux=source is None)
    plan = _choose_plan(gpus, files.weights, settings)
    plain = all(part.safetensors and not part.quantization for part in files.components.values())
    is_flux = checkpoint.pipeline_class(files.folder) in _FLUX_CLASSES
    fast = plan == "resident" and is_flux and plain and flux.supported()
    if not fast:
        _silence_libraries()  # imports transformers, whose time does not count as loading
    began = time.perf_counter()
    if fast:
        pipeline, fast_path = _load_fast(files.folder, settings, progress)
    else:
        pipeline, fast_path = _load_with_diffusers(files, settings, plan, progress), None
    with _one_line_errors(files.name, ()):
        model = _assemble(files, pipeline, fast_path, settings, plan)
    model.info = _info(model, files, gpus, time.perf_counter() - began)
    log.info("Loaded %s: %s", files.name, ", ".join(f"{key} {value}" for key, value in model.info.items()))
    return model


def _find(
    source: str | None, gpus: list[memory.Gpu], requirements: memory.GpuRequirements | None, *, only_flux: bool
) -> _ModelFiles:
    """Find a model's files. For a large model, check the machine as early as the model's size is known.

    `only_flux`: whether `requirements` are for FLUX.1 alone.
    """
    source = source or checkpoint.default_source(has_gpu=bool(gpus))
    if requirements and source.startswith(_FLUX_PREFIX):
        memory.check(gpus, requirements)
    folder, origin = checkpoint.find(source)
    description = checkpoint.read_description(folder)
    name = _displayed(str(description.get("name") or (source if origin == "hub" else folder.name)))
    components = checkpoint.components(folder, repository=source if origin == "hub" else None)
    files = _ModelFiles(folder, origin, name, description, components)
    concerned = not only_flux or checkpoint.pipeline_class(folder) in _FLUX_CLASSES
    if requirements and concerned and sum(files.weights.values()) > _LARGE_MODEL:
        memory.check(gpus, requirements)
    return files


def _displayed(name: str) -> str:
    """Return a name that fits into a header, a log line and a file's metadata: a model may come with any name."""
    return "".join(character if character.isprintable() else " " for character in name)[:_MAX_NAME]


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
            text_length=settings.max_sequence_length or FLUX_DEV.tokens,
        )
        _silence_libraries()
        import diffusers

        pipeline_class = getattr(diffusers, checkpoint.pipeline_class(folder))
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

    if settings.precision != "bf16":
        raise LoadError(
            f"IMAGEGEN_PRECISION={settings.precision} works only for FLUX.1 on a GPU that holds all its weights. "
            "Set IMAGEGEN_PRECISION=bf16."
        )
    dtype = torch.bfloat16 if plan else torch.float32
    class_name = checkpoint.pipeline_class(files.folder)
    if not hasattr(diffusers, class_name):
        raise LoadError(
            f"{files.name} needs diffusers' class {class_name}, which version {diffusers.__version__} does not have. "
            "Upgrade diffusers."
        )
    if lora := next(files.folder.glob("*lora*.safetensors"), None):
        log.warning("%s has no effect: the service does not load LoRA files. Fuse it into the model", lora.name)
    variant = next((each.variant for each in files.components.values() if each.variant), None)
    loading: list[str] = []
    with _one_line_errors(files.name, loading):
        replaced = processors.replacements(files.folder)
        with _component_progress(files.components, dtype, progress, loading), missing_weights.recorded() as missing:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                files.folder,
                dtype=dtype,
                variant=variant,
                local_files_only=True,
                use_safetensors=None if any(part.safetensors for part in files.components.values()) else False,
                **dict.fromkeys(replaced),
            )
        pipeline.register_modules(**replaced)  # from_pretrained accepts transformers' own classes only
    missing_weights.check(files.name, pipeline, missing)
    if plan:
        progress("moving the weights to the GPU", None, None)
        memory.apply_plan(pipeline, plan)
    return pipeline


@contextmanager
def _one_line_errors(model: str, loading: Sequence[str]) -> Iterator[None]:
    """Turn any error into a LoadError of one line. `loading` are the components in the order of loading."""
    try:
        yield
    except LoadError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1]).rstrip(".") or "no details"
        part, check = (f"{loading[-1]}: ", f"{loading[-1]}/") if loading else ("", "model_index.json")
        raise LoadError(
            f"{model} cannot be loaded: {part}{type(error).__name__}: {reason}. "
            f"Check {check}, or copy the model's folder again."
        ) from error


@contextmanager
def _component_progress(
    components: Mapping[str, checkpoint.Component], dtype: torch.dtype, progress: Progress, loading: list[str]
) -> Iterator[None]:
    """Call `progress` for each component that diffusers loads, and add its name to `loading`.

    Diffusers passes the components through its own tqdm.
    """
    from diffusers.utils import logging as diffusers_logging

    sizes = {name: component.parameters * dtype.itemsize for name, component in components.items()}

    def tqdm(entries: Iterable[Any], *args: Any, **options: Any) -> Iterator[Any]:
        done = 0
        for entry in entries:
            name = str(entry[0]) if isinstance(entry, tuple) else ""
            if name:
                loading.append(name)
            if name in sizes:
                progress(f"reading {name}", done, sum(sizes.values()))
            yield entry
            done += sizes.get(name, 0)
        if done:
            progress("assembling the pipeline", done, sum(sizes.values()))

    original = diffusers_logging.tqdm
    diffusers_logging.tqdm = tqdm
    try:
        yield
    finally:
        diffusers_logging.tqdm = original


def _assemble(
    files: _ModelFiles, pipeline: Any, fast_path: "FastPath | None", settings: Settings, plan: MemoryPlan | None
) -> Model:
    """Return the model: the loaded pipeline, pipelines for the other tasks from its components, and its profile."""
    tokens = settings.max_sequence_length
    profile = known_models.find_profile(pipeline, files.description, model=files.name, tokens=tokens)
    if settings.scheduler:
        pipeline.scheduler = _scheduler(pipeline.scheduler, settings.scheduler)
        profile = replace(profile, all_tasks_work=False)  # not every pipeline takes every scheduler
    return Model(
        name=files.name,
        origin=files.origin,
        precision=settings.precision if plan else "fp32",  # other precisions than bf16 need the fast path
        pipeline=pipeline,
        pipelines=tasks.pipelines(pipeline, files.name),
        scheduler=pipeline.scheduler,
        profile=profile,
        plan=plan,
        info={},
        fast_path=fast_path,
        scheduler_name=settings.scheduler,
    )


def _scheduler(own: Any, name: str) -> Any:
    try:
        return schedulers.create(own, name)
    except InputError as error:
        raise LoadError(f"IMAGEGEN_SCHEDULER: {error}") from None


def _info(model: Model, files: _ModelFiles, gpus: list[memory.Gpu], seconds: float) -> dict[str, object]:
    """Return the values that `/ready` reports about the model."""
    return {
        "model": model.name,
        "origin": model.origin,
        "device": gpus[0].name if model.plan else "cpu",
        "precision": model.precision,
        "memory_plan": model.plan or "cpu",
        "native_size": files.description.get("native_size"),
        "pipelines": list(model.pipelines),
        "profile": model.profile.info,
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
