"""Build the pipelines of all tasks that a model can do from one loaded pipeline."""

import inspect
from contextlib import suppress
from typing import Any

from imagegen.errors import LoadError
from imagegen.request import Task

_ENDINGS: dict[Task, str] = {"text2image": "", "img2img": "Img2Img", "inpaint": "Inpaint"}


def pipelines(pipeline: Any, model: str) -> dict[Task, Any]:
    """Return a pipeline for each task; all of them share the components of the given one.

    The signature of the given pipeline decides which tasks it does itself. Whether the model can do the others, a
    warm-up image has to show. Raises LoadError if there is no task that a request can ask for; `model` is the model's
    name in that message.
    """
    found = dict.fromkeys(_own_tasks(type(pipeline), model), pipeline)
    if not _has_extra_channels(pipeline):
        for task in _ENDINGS:
            pipeline_class = None if task in found else _sibling_class(type(pipeline), task)
            if pipeline_class is not None:
                with suppress(TypeError, ValueError):  # the class needs a component that this model lacks
                    found[task] = _sibling(pipeline_class, pipeline)
    for each in found.values():
        each.set_progress_bar_config(disable=True)
    return {task: found[task] for task in _ENDINGS if task in found}


def _own_tasks(pipeline_class: Any, model: str) -> set[Task]:
    """Return the tasks that a class does itself."""
    accepted, name = inspect.signature(pipeline_class.__call__).parameters, pipeline_class.__name__
    for argument, result in (("num_frames", "videos"), ("audio_length_in_s", "audio"), ("audio_end_in_s", "audio")):
        if argument in accepted:
            raise LoadError(f"{model} generates {result} ({name}). Choose a model that generates images.")
    if "control_image" in accepted or "prompt" not in accepted:
        _self, *required = (each for each, argument in accepted.items() if argument.default is inspect.Parameter.empty)
        needed = "a control image" if "control_image" in accepted else ", ".join(required)
        problem = f"needs {needed} ({name}), which no request has" if needed else f"takes no prompt ({name})"
        raise LoadError(f"{model} {problem}. Choose another model.")
    if "mask_image" in accepted:
        return {"inpaint"}
    if "image" not in accepted:
        return {"text2image"}
    image_is_optional = accepted["image"].default is None and "strength" not in accepted
    return {"text2image", "img2img"} if image_is_optional else {"img2img"}


def _has_extra_channels(pipeline: Any) -> bool:
    """Return whether the denoiser reads more than latents, such as a mask: then no other task can use it."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    read = getattr(getattr(denoiser, "config", None), "in_channels", None)
    latent = getattr(getattr(getattr(pipeline, "vae", None), "config", None), "latent_channels", None)
    if not isinstance(read, int) or not isinstance(latent, int):
        return False
    return read not in {latent, 4 * latent}  # four, if the pipeline packs 2x2 latent pixels into one


def _sibling_class(pipeline_class: Any, task: Task) -> Any | None:
    """Return the class for another task by diffusers' usual names, or else by AutoPipeline; None if there is none."""
    import diffusers

    base = pipeline_class.__name__.removesuffix("Pipeline").removesuffix("Img2Img").removesuffix("Inpaint")
    named = getattr(diffusers, f"{base}{_ENDINGS[task]}Pipeline", None)
    if named is not None:
        return named if named is not pipeline_class else None
    try:
        from diffusers.pipelines import auto_pipeline  # imports every pipeline: takes seconds
    except RuntimeError:  # one of them cannot be imported
        return None
    mappings: dict[Task, dict[str, Any]] = {
        "text2image": auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        "img2img": auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        "inpaint": auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING,
    }
    families = (family for each in mappings.values() for family, kind in each.items() if kind is pipeline_class)
    return next((mappings[task][family] for family in families if family in mappings[task]), None)


def _sibling(pipeline_class: Any, pipeline: Any) -> Any:
    """Return a pipeline of another class with the same components and configuration.

    `from_pipe` would do the same, but it also converts all components to one dtype, which breaks quantized ones.
    """
    accepted = inspect.signature(pipeline_class.__init__).parameters
    values = {**pipeline.config, **pipeline.components}
    return pipeline_class(**{name: value for name, value in values.items() if name in accepted})
