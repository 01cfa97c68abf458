"""Run a diffusers pipeline for one request, and fit its image to the requested size."""

import math
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import count
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from imagegen import schedulers
from imagegen.canvas import Canvas, cover, dilate_mask
from imagegen.errors import ImageRejected, NotFinite
from imagegen.models import Model
from imagegen.request import Request

AfterStep = Callable[[int, int], None]
"""Called on the engine's thread after each step, with the number of finished steps and their total."""


def sample(model: Model, request: Request, canvas: Canvas, *, steps: int, after_step: AfterStep) -> Image.Image:
    """Generate the image of a request at the canvas's size.

    The request must have a seed, and its images must have its size. `steps` replaces the request's number of steps. An
    exception from `after_step` ends the run. The noise comes from a generator on the CPU, so that a seed gives the same
    noise on every device. Raises NotFinite if the decoded image holds NaN or infinite values.
    """
    pipeline = model.pipelines[request.task]
    if model.plan == "offload":
        # The pipelines share components, whose hooks belong to the last pipeline that called this.
        pipeline.enable_model_cpu_offload()
    accepted = model.arguments(request.task)
    arguments = {key: value for key, value in _arguments(model, request, canvas, steps).items() if key in accepted}
    if "intermediate_timesteps" in accepted and steps != accepted["num_inference_steps"].default:
        arguments["intermediate_timesteps"] = None  # Sana-Sprint's default suits two steps only
    step_end = _StepEnd(model, canvas, after_step)
    try:
        with (
            _new_scheduler(model, pipeline, request.scheduler),
            _observe_decoder(pipeline) as extremes,
            _observe_steps(pipeline, accepted, step_end) as callback,
        ):
            output = pipeline(**arguments, **callback, output_type="pt")
    finally:
        pipeline.maybe_free_model_hooks()  # the pipeline itself does not after an exception
    images = output.images
    finite = torch.stack(extremes or [*torch.aminmax(images[0])]).isfinite().all()
    image = _to_pil(images[0])
    if not finite:  # this test waits for the GPU, so it follows the copy, which waits anyway
        width, height = canvas.size
        raise NotFinite(f"The model produced NaN or infinite values at {width}x{height} with {steps} steps.")
    if any(getattr(output, "nsfw_content_detected", None) or ()):
        raise ImageRejected("The model's safety checker rejected the image. Change the prompt or the seed.")
    return image


class _StepEnd:
    """A pipeline's `callback_on_step_end`: it keeps the CPU at most one step ahead, and reports the step."""

    def __init__(self, model: Model, canvas: Canvas, after_step: AfterStep) -> None:
        self._on_gpu = model.plan is not None
        self._after_step = after_step
        self._queued: list[torch.cuda.Event] = []
        path = model.fast_path
        self._decoder_parts = path.prepare_decoder(*canvas.size) if path else iter(())

    def __call__(self, pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if self._on_gpu:
            self._wait_for_previous_step()
        self._after_step(index + 1, getattr(pipeline, "num_timesteps", index + 1))
        return {}

    def _wait_for_previous_step(self) -> None:
        """Let the CPU queue at most one step ahead of the GPU, so that a cancelled request stops within one step."""
        event = torch.cuda.Event(blocking=True)
        event.record()
        self._queued.append(event)
        next(self._decoder_parts, None)  # uses the time in which the CPU would wait
        if len(self._queued) > 1:
            self._queued.pop(0).synchronize()


@contextmanager
def _new_scheduler(model: Model, pipeline: Any, name: str | None) -> Iterator[None]:
    """Give the pipeline a new scheduler for one image, so that no state of another image remains."""
    bind = model.fast_path.bind_scheduler if model.fast_path else lambda scheduler: None
    scheduler = schedulers.create(model.scheduler, name)
    try:
        pipeline.scheduler = scheduler
        bind(scheduler)
        yield
    finally:
        pipeline.scheduler = model.scheduler
        bind(model.scheduler)


@contextmanager
def _observe_steps(pipeline: Any, accepted: Container[str], step_end: _StepEnd) -> Iterator[dict[str, Any]]:
    """Yield the arguments for a callback after each step; if a pipeline accepts none, call it in the scheduler."""
    if "callback_on_step_end" in accepted:
        yield {"callback_on_step_end": step_end}
        return
    done, step = count(), pipeline.scheduler.step

    @wraps(step)  # pipelines inspect its signature
    def observed_step(*args: Any, **options: Any) -> Any:
        result = step(*args, **options)
        step_end(pipeline, next(done), None, {})
        return result

    pipeline.scheduler.step = observed_step  # it lives only for this image
    yield {}


class _ObservedProcessor:
    """A pipeline's image processor that records the minimum and maximum of the decoded image; NaN if it holds NaN."""

    def __init__(self, processor: Any, extremes: list[Tensor]) -> None:
        self._processor = processor
        self._extremes = extremes

    def postprocess(self, image: Tensor, *args: Any, **options: Any) -> Any:
        self._extremes.extend(torch.aminmax(image))
        return self._processor.postprocess(image, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


@contextmanager
def _observe_decoder(pipeline: Any) -> Iterator[list[Tensor]]:
    """Record the extremes of the images that the VAE decodes, before postprocessing clamps infinite values."""
    extremes: list[Tensor] = []
    processor = getattr(pipeline, "image_processor", None)
    if processor is None:
        yield extremes
        return
    pipeline.image_processor = _ObservedProcessor(processor, extremes)
    try:
        yield extremes
    finally:
        pipeline.image_processor = processor


def _arguments(model: Model, request: Request, canvas: Canvas, steps: int) -> dict[str, Any]:
    """Return the arguments of a request for all pipelines; each pipeline accepts some of them."""
    if request.seed is None:
        raise ValueError("Request seed must be an integer; got None. `Engine.generate` chooses one.")
    profile = model.profile
    width, height = canvas.size
    arguments: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or profile.blank_negative,
        "true_cfg_scale": request.true_cfg_scale,
        profile.guidance_argument: request.guidance,
        "width": width,
        "height": height,
        "max_area": width * height,
        "num_inference_steps": steps,
        "max_sequence_length": profile.tokens,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
    }
    if request.image:
        arguments["image"] = canvas.pad(request.image)
        if request.references:
            arguments["image"] = [arguments["image"], *request.references]
        if request.strength is not None:
            # Some pipelines round `strength` times the steps down; at least one step must remain.
            arguments["num_inference_steps"] = max(steps, math.ceil(1 / request.strength))
            arguments["strength"] = request.strength
    if request.mask:
        cell = getattr(model.pipelines[request.task], "vae_scale_factor", 8)
        arguments["mask_image"] = dilate_mask(canvas.pad(request.mask), cell)
    return {name: value for name, value in arguments.items() if value is not None}


def _to_pil(image: Tensor) -> Image.Image:
    """Convert (3, H, W) in 0..1, of any dtype, to RGB on its device, so that only bytes are copied."""
    pixels = image.float().mul(255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def finish(image: Image.Image, canvas: Canvas, request: Request) -> Image.Image:
    """Crop and scale a sampled image to the requested size, and restore the pixels under a black mask bit for bit."""
    if request.image is None and image.size != canvas.size:  # the model has sizes of its own
        return cover(image, canvas.result)
    image = canvas.crop(image)
    return Image.composite(image, request.image, request.mask) if request.image and request.mask else image
