"""One picture through one diffusers pipeline: arguments in, pixels out. Runs on the engine's thread."""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image

from imagegen.canvas import Canvas, Size, dilate_mask
from imagegen.errors import NotFinite
from imagegen.models import Model

Task = Literal["text2image", "img2img", "inpaint"]

_TRUE_CFG = 2.0  # with a negative prompt, beside the distilled guidance; much of both burns the picture


@dataclass(frozen=True)
class Order:
    """What to draw: the request, the size asked for, and the images that came with it (of that size)."""

    task: Task
    params: Any
    size: Size
    seed: int
    image: Image.Image | None = None
    mask: Image.Image | None = None


def draw(
    model: Model, order: Order, where: Canvas, *, steps: int, after_step: Callable[[int, int], None]
) -> Image.Image:
    """Draw on the canvas `where`, calling `after_step(done, total)`; what that raises ends the drawing.

    The noise comes from a generator on the CPU, so that a seed means the same on every device. Raises NotFinite if
    the decoded picture holds NaN or infinite values.
    """
    pipeline = getattr(model, order.task)
    if model.plan == "offload":
        pipeline.enable_model_cpu_offload()  # the hooks belong to the pipeline that used the components last
    arguments = _arguments(model, order, where, steps)

    queued: list[torch.cuda.Event] = []
    preparing = model.fast_path.prepare_decoder(*where.size) if model.fast_path else iter(())

    def after(pipeline: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if model.plan:  # on a GPU
            # The CPU is steps ahead of the GPU: it may queue one, so that a cancelled picture stops within it.
            event = torch.cuda.Event(blocking=True)
            event.record()
            queued.append(event)
            next(preparing, None)  # for the decoder, while the CPU waits anyway
            if len(queued) > 1:
                queued.pop(0).synchronize()
        after_step(index + 1, pipeline.num_timesteps)
        return {}

    accepted = inspect.signature(pipeline.__call__).parameters
    arguments = {key: value for key, value in arguments.items() if key in accepted}
    try:
        with _decoded_extremes(pipeline) as extremes:
            images = pipeline(**arguments, callback_on_step_end=after, output_type="pt").images
    finally:
        pipeline.maybe_free_model_hooks()  # an exception skips the pipeline's own call
    finite = torch.stack(extremes or [*torch.aminmax(images[0])]).isfinite().all()
    image = _to_pil(images[0])
    if not finite:  # read only here, where the GPU has finished anyway
        width, height = where.size
        raise NotFinite(f"The model produced NaN or infinite values at {width}x{height} with {steps} steps.")
    return image


@contextmanager
def _decoded_extremes(pipeline: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the least and the largest value of what the pipeline decodes; either is NaN if any value is.

    They are taken from the VAE's own output, since postprocessing clamps infinite values into the range of a picture.
    """
    extremes: list[torch.Tensor] = []
    processor = getattr(pipeline, "image_processor", None)
    if processor is None:
        yield extremes
        return
    postprocess = processor.postprocess

    def observed(image: Any, *args: Any, **options: Any) -> Any:
        extremes.extend(torch.aminmax(image))
        return postprocess(image, *args, **options)

    processor.postprocess = observed
    try:
        yield extremes
    finally:
        del processor.postprocess


def _arguments(model: Model, order: Order, where: Canvas, steps: int) -> dict[str, Any]:
    """Every argument that some pipeline takes for this order."""
    params = order.params
    negative = params.negative_prompt if (params.negative_prompt or "").strip() else None
    arguments = {
        "prompt": params.prompt,
        "negative_prompt": negative,
        "true_cfg_scale": (params.true_cfg_scale or _TRUE_CFG) if negative else 1.0,
        "guidance_scale": params.guidance_scale,
        "width": where.size[0],
        "height": where.size[1],
        "num_inference_steps": steps,
        "max_sequence_length": model.max_sequence_length,
        "generator": torch.Generator("cpu").manual_seed(order.seed),
    }
    if order.image:
        # The last steps are done, `strength` of them all: at least one.
        arguments["num_inference_steps"] = max(steps, math.ceil(1 / params.strength))
        arguments["strength"] = params.strength
        arguments["image"] = where.pad(order.image)
    if order.mask:
        arguments["mask_image"] = dilate_mask(where.pad(order.mask), model.text2image.vae_scale_factor)
    return arguments


def _to_pil(image: torch.Tensor) -> Image.Image:
    """(3, H, W) in 0..1, of any dtype and device, to RGB; rounded there, so that only bytes are copied."""
    pixels = image.float().mul(255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def finish(drawn: Image.Image, where: Canvas, order: Order) -> Image.Image:
    """Bring what was drawn to the size asked for, and put back what the mask keeps, bit for bit."""
    image = where.crop(drawn)
    return Image.composite(image, order.image, order.mask) if order.image and order.mask else image
