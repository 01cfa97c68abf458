"""Putting the fast path into a diffusers pipeline: from one in memory, or straight from a folder."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights

from imagegen.flux.attention import flash_attention_3, running_kernel
from imagegen.flux.kernels import FP8
from imagegen.flux.model import FluxTransformer
from imagegen.flux.text import fp8_weights
from imagegen.flux.vae import channels_last
from imagegen.flux.weights import copy_state, parameter_places, placements, stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

PRECISIONS = ("bf16", "fp8", "fp8+attention")


def accelerate(pipeline: Any, *, precision: str = "bf16", device: str = "cuda") -> dict[str, str]:
    """Replace the transformer and the VAE's layers of a FLUX pipeline in bf16; return what will run.

    `precision` is one of `PRECISIONS`. LoRA weights belong into the pipeline, fused, before this.
    """
    model = _transformer(pipeline.transformer.config, precision, device)
    copy_state(model, pipeline.transformer.state_dict())
    pipeline.register_modules(transformer=model)
    if precision != "bf16":
        state = pipeline.text_encoder_2.state_dict()
        for name, write in fp8_weights(pipeline.text_encoder_2, device).items():
            write(state[name])
    for name in ("text_encoder", "text_encoder_2", "vae"):
        getattr(pipeline, name).to(device)
    return _finish(pipeline, precision)


def load(
    kind: Any,
    folder: Path,
    *,
    precision: str = "bf16",
    progress: Callable[[str, float | None, float | None], None],
    device: str = "cuda",
) -> tuple[Any, dict[str, str]]:
    """Load a pipeline of class `kind` from a folder in diffusers' layout, its large parts at the speed of the disk.

    Returns the pipeline on the device and what will run. `progress` takes (what, bytes done, bytes in all). A CPU
    will do where Triton's interpreter runs the kernels: it is how this is tested without a GPU.
    """
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    began = time.perf_counter()
    with init_empty_weights():
        config = FluxTransformer2DModel.from_config(FluxTransformer2DModel.load_config(folder / "transformer")).config
        t5 = T5EncoderModel(T5Config.from_pretrained(folder / "text_encoder_2"))
    quantized = {} if precision == "bf16" else fp8_weights(t5, device)
    _materialize(t5, device)
    model = _transformer(config, precision, device)
    places = {"text_encoder_2": parameter_places(t5) | quantized, "transformer": placements(model)}
    read = 0
    for name, where in places.items():
        report = partial(progress, f"reading {name}")
        read += stream(sorted((folder / name).glob("*.safetensors")), where, report, device)
    seconds = time.perf_counter() - began
    progress("compiling kernels", None, None)
    pipeline = kind.from_pretrained(
        folder, transformer=None, text_encoder_2=t5.eval(), dtype=torch.bfloat16, local_files_only=True
    )
    pipeline.register_modules(transformer=model)  # from_pretrained takes diffusers' own classes only
    for name in ("text_encoder", "vae"):
        getattr(pipeline, name).to(device)
    ran = {"weights_read": f"{read / 1e9:.1f} GB in {seconds:.1f} s ({read / 1e9 / seconds:.1f} GB/s)"}
    return pipeline, {**_finish(pipeline, precision), **ran}


def _materialize(module: Any, device: str) -> None:
    """Give a module that was built without memory its parameters, empty, in bf16 on the device."""
    for part in module.modules():
        for name, parameter in [*part.named_parameters(recurse=False)]:
            empty = torch.empty_like(parameter, device=device, dtype=torch.bfloat16)
            setattr(part, name, torch.nn.Parameter(empty, requires_grad=False))
    module.tie_weights()
    module.to(device)


def _transformer(config: Any, precision: str, device: str) -> FluxTransformer:
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, not one of {', '.join(PRECISIONS)}")
    if precision == "fp8+attention" and flash_attention_3() is None:
        raise ValueError("fp8 attention needs a Hopper GPU and the package fa3-fwd")
    fp8_attention = precision == "fp8+attention"
    return FluxTransformer(config, fp8=precision != "bf16", fp8_attention=fp8_attention, device=device)


def _finish(pipeline: Any, precision: str) -> dict[str, str]:
    """Bind what belongs together, and say which attention kernel really runs."""
    model = pipeline.transformer
    model.scheduler = pipeline.scheduler
    channels_last(pipeline.vae)
    kernel = "torch's on the CPU"
    if model.device.type == "cuda":
        kernel = running_kernel(model.heads, model.dim, FP8 if model.fp8_attention else torch.bfloat16)
    log.info("attention runs on %s", kernel)
    return {"transformer": "imagegen.flux", "precision": precision, "attention": kernel}
