"""Putting the fast path into a diffusers pipeline: from one in memory, or straight from a folder."""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from imagegen import checkpoint
from imagegen.flux.attention import flash_attention_3, running_kernel
from imagegen.flux.cublas import load_kernels
from imagegen.flux.kernels.fp8 import FP8
from imagegen.flux.model import FluxTransformer
from imagegen.flux.text_encoders import fp8_weights, fuse_attention, record
from imagegen.flux.vae import channels_last
from imagegen.flux.weights import copy_state, parameter_map, stream, weight_map

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from torch import Tensor

    from imagegen.flux.cuda_graph import CudaGraphCache
    from imagegen.flux.vae import DecoderWarmup

    Progress = Callable[[str, float | None, float | None], None]

log = logging.getLogger(__name__)

PRECISIONS = ("bf16", "fp8", "fp8+attention")

_FP8_SINCE = (8, 9)  # compute capability
_WARM_ROWS = (1024, 4096)  # of 512x512 and 1024x1024 pixels

# What diffusers' `FluxTransformer2DModel` takes for granted where its config.json says nothing.
DEFAULTS = {"out_channels": None, "guidance_embeds": False, "axes_dims_rope": (16, 56, 56)}


class LoadedModule(NamedTuple):
    """A module read from disk, the bytes of it, and the seconds it took."""

    module: Any
    size: int
    seconds: float


class FastPath(NamedTuple):
    """What the engine uses of the fast path beyond diffusers' interface of a pipeline."""

    transformer: FluxTransformer
    recorders: list[CudaGraphCache]
    plans: DecoderWarmup | None

    @property
    def capturing(self) -> bool:
        """Whether a CUDA graph is being captured; may be read from any thread."""
        return any(recorder.recording for recorder in self.recorders)

    def free_caches(self) -> None:
        """Free the GPU memory that is kept between pictures."""
        self.transformer.free_caches()
        for recorder in self.recorders:
            recorder.clear()

    def prepare_decoder(self, width: int, height: int) -> Iterator[None]:
        """Prepare the decoder for images of a new size, one part per iteration."""
        return self.plans(width, height) if self.plans else iter(())


def fast_path(pipeline: Any) -> FastPath:
    """Return the fast path's parts of a pipeline that `load` or `replace_modules` made."""
    parts = pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2
    return FastPath(pipeline.transformer, [part.recorder for part in parts], getattr(pipeline.vae, "plans", None))


def replace_modules(pipeline: Any, *, precision: str = "bf16", device: str = "cuda") -> dict[str, str]:
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


def read_transformer(
    folder: Path, *, precision: str = "bf16", progress: Progress, device: str = "cuda", text: int = 512
) -> LoadedModule:
    """Read the transformer of a folder in diffusers' layout, without diffusers: it may be imported meanwhile.

    On a GPU some sizes are recorded ahead, with prompts of `text` tokens: pipelines pad every prompt to that length.
    """
    config = SimpleNamespace(**DEFAULTS | json.loads((folder / "transformer" / "config.json").read_text()))
    began = time.perf_counter()
    model = _transformer(config, precision, device)
    read = _filled(model, weight_map(model), folder / "transformer", progress, device, began)
    progress("compiling kernels", None, None)
    if device == "cuda":
        for rows in _WARM_ROWS:
            warm(model, rows, text)
        load_kernels(torch.cuda.current_device())
    return read


def warm(model: FluxTransformer, rows: int, text: int = 512) -> None:
    """Run and record one step with that many rows of image and text, so that its kernels are compiled and loaded."""
    config = model.config

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=model.dtype, device=model.device)

    model(
        hidden_states=zeros(1, rows, config.in_channels),
        encoder_hidden_states=zeros(1, text, config.joint_attention_dim),
        pooled_projections=zeros(1, config.pooled_projection_dim),
        timestep=zeros(1),
        img_ids=zeros(rows, 3),
        txt_ids=zeros(text, 3),
        guidance=zeros(1) if config.guidance_embeds else None,
        return_dict=False,
    )


def load(
    kind: Any,
    folder: Path,
    *,
    precision: str = "bf16",
    progress: Progress,
    device: str = "cuda",
    transformer: Future[LoadedModule] | None = None,
) -> tuple[Any, dict[str, str]]:
    """Load a pipeline of class `kind` from a folder in diffusers' layout, its large parts at the speed of the disk.

    `transformer` may be on its way already. Returns the pipeline on the device and what will run. `progress` takes
    (what, bytes done, bytes in all). A CPU will do where Triton's interpreter runs the kernels: it is how this is
    tested without a GPU.
    """
    from transformers import T5Config, T5EncoderModel

    began = time.perf_counter()
    with torch.device("meta"):
        t5 = T5EncoderModel(T5Config.from_pretrained(folder / "text_encoder_2")).eval()
    quantized = {} if precision == "bf16" else fp8_weights(t5, device)
    _materialize(t5, device)
    text = _filled(t5, parameter_map(t5) | quantized, folder / "text_encoder_2", progress, device, began)
    if transformer is None:
        image = read_transformer(folder, precision=precision, progress=progress, device=device)
    else:
        image = transformer.result()
    progress("putting the pipeline together", None, None)
    pipeline = kind.from_pretrained(
        folder,
        transformer=None,
        text_encoder_2=t5,
        dtype=torch.bfloat16,
        variant=checkpoint.weight_files(folder / "vae")[1],
        local_files_only=True,
    )
    pipeline.register_modules(transformer=image.module)  # from_pretrained takes diffusers' own classes only
    for name in ("text_encoder", "vae"):
        getattr(pipeline, name).to(device)
    size, seconds = (text.size + image.size) / 1e9, text.seconds + image.seconds
    ran = {"weights_read": f"{size:.1f} GB in {seconds:.1f} s ({size / seconds:.1f} GB/s)"}
    return pipeline, {**_finish(pipeline, precision), **ran}


def _filled(
    module: Any,
    places: Mapping[str, Callable[[Tensor], object]],
    folder: Path,
    progress: Progress,
    device: str,
    began: float,
) -> LoadedModule:
    size = stream(checkpoint.weight_files(folder)[0], places, partial(progress, f"reading {folder.name}"), device)
    return LoadedModule(module, size, time.perf_counter() - began)


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
    if precision != "bf16" and device == "cuda" and torch.cuda.get_device_capability() < _FP8_SINCE:
        raise ValueError(f"precision {precision} needs an Ada or Hopper GPU; use IMAGEGEN_PRECISION=bf16")
    if precision == "fp8+attention" and flash_attention_3() is None:
        raise ValueError("fp8 attention needs a Hopper GPU and the package fa3-fwd")
    fp8_attention = precision == "fp8+attention"
    return FluxTransformer(config, fp8=precision != "bf16", fp8_attention=fp8_attention, device=device)


def _finish(pipeline: Any, precision: str) -> dict[str, str]:
    """Bind what belongs together, and say which attention kernel really runs."""
    model = pipeline.transformer
    model.scheduler = pipeline.scheduler
    channels_last(pipeline.vae)
    fuse_attention(pipeline.text_encoder_2)
    for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
        record(encoder)
    kernel = "torch's on the CPU"
    if model.device.type == "cuda":
        kernel = running_kernel(model.heads, model.dim, FP8 if model.fp8_attention else torch.bfloat16)
    log.info("attention runs on %s", kernel)
    return {"transformer": "imagegen.flux", "precision": precision, "attention": kernel}
