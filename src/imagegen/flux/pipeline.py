"""Put the fast path into a FLUX pipeline of diffusers: one in memory, or one loaded from a folder."""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import torch

from imagegen import checkpoint
from imagegen.flux.attention import flash_attention_3, running_kernel
from imagegen.flux.cublas import load_kernels
from imagegen.flux.kernels.fp8 import FP8
from imagegen.flux.model import FluxTransformer
from imagegen.flux.text_encoders import GraphedEncoder, fuse_attention, use_fp8_weights
from imagegen.flux.vae import to_channels_last
from imagegen.flux.weights import copy_state, parameter_map, read_weights, weight_map
from imagegen.settings import Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from diffusers import DiffusionPipeline, FluxPipeline
    from torch import Tensor, nn

    from imagegen.checkpoint import Progress
    from imagegen.flux.cuda_graph import CudaGraphCache
    from imagegen.flux.model import FluxConfig, Scheduler
    from imagegen.flux.vae import DecoderWarmup

log = logging.getLogger(__name__)

PRECISIONS: tuple[str, ...] = get_args(Precision)

_FP8_CAPABILITY = (8, 9)  # the first compute capability with fp8 matmuls
_WARM_UP_ROWS = (1024, 4096)  # patches of 512x512 and 1024x1024 pixels

# Defaults of diffusers' `FluxTransformer2DModel`, for settings that a config.json omits.
CONFIG_DEFAULTS = {"out_channels": None, "guidance_embeds": False, "axes_dims_rope": (16, 56, 56)}


class LoadedModule(NamedTuple):
    """A module read from disk, its size in bytes, and the duration in seconds."""

    module: nn.Module
    size: int
    seconds: float


class FastPath(NamedTuple):
    """The parts of the fast path that an engine uses in addition to the pipeline."""

    transformer: FluxTransformer
    graph_caches: list[CudaGraphCache]
    """Those of the transformer and the text encoders."""
    decoder_warmup: DecoderWarmup | None
    """None if the VAE is diffusers' own."""
    info: dict[str, str]
    """Values for `/ready`: transformer, attention kernel, and how fast the weights were read."""

    @property
    def capturing(self) -> bool:
        """Whether a CUDA graph is being captured; may be read from any thread."""
        return any(cache.capturing for cache in self.graph_caches)

    def free_caches(self) -> None:
        """Free the GPU memory that is kept between images."""
        self.transformer.free_caches()
        for cache in self.graph_caches:
            cache.clear()

    def bind_scheduler(self, scheduler: Scheduler) -> None:
        """Take the timesteps of the next image from a scheduler."""
        self.transformer.bind_scheduler(scheduler)

    def prepare_decoder(self, width: int, height: int) -> Iterator[None]:
        """Prepare the decoder for images of a new size, one part per iteration."""
        return self.decoder_warmup(width, height) if self.decoder_warmup else iter(())


def replace_modules(pipeline: FluxPipeline, *, precision: str = "bf16", device: str = "cuda") -> FastPath:
    """Replace the transformer, the text encoders and the VAE's layers of a FLUX pipeline in bf16.

    `precision` is one of `PRECISIONS`. LoRA weights must already be fused into the pipeline.
    """
    model = _build_transformer(pipeline.transformer.config, precision, device)
    copy_state(model, pipeline.transformer.state_dict())
    pipeline.register_modules(transformer=model)
    if precision != "bf16":
        state = pipeline.text_encoder_2.state_dict()
        for name, write in use_fp8_weights(pipeline.text_encoder_2, device).items():
            write(state[name])
    for name in ("text_encoder", "text_encoder_2", "vae"):
        getattr(pipeline, name).to(device)
    return _connect(pipeline)


def read_transformer(
    folder: Path, *, precision: str = "bf16", progress: Progress, device: str = "cuda", text_length: int = 512
) -> LoadedModule:
    """Read the transformer from a folder in diffusers' layout, while another thread may import diffusers.

    On a GPU, steps of 512x512 and 1024x1024 pixels are captured in advance. `text_length` is the number of tokens
    to which pipelines pad every prompt.
    """
    config: Any = SimpleNamespace(**CONFIG_DEFAULTS | json.loads((folder / "transformer" / "config.json").read_text()))
    began = time.perf_counter()
    model = _build_transformer(config, precision, device)
    loaded = _read_into(model, weight_map(model), folder / "transformer", progress, device, began)
    progress("compiling kernels", None, None)
    if device == "cuda":
        for rows in _WARM_UP_ROWS:
            warm_up(model, rows, text_length)
        load_kernels(torch.cuda.current_device())
    return loaded


def warm_up(model: FluxTransformer, rows: int, text_length: int = 512) -> None:
    """Run one step with `rows` image patches and `text_length` tokens, to compile, load and capture its kernels."""
    config = model.config

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=model.dtype, device=model.device)

    model(
        hidden_states=zeros(1, rows, config.in_channels),
        encoder_hidden_states=zeros(1, text_length, config.joint_attention_dim),
        pooled_projections=zeros(1, config.pooled_projection_dim),
        timestep=zeros(1),
        img_ids=zeros(rows, 3),
        txt_ids=zeros(text_length, 3),
        guidance=zeros(1) if config.guidance_embeds else None,
        return_dict=False,
    )


def load(
    pipeline_class: type[DiffusionPipeline],
    folder: Path,
    *,
    precision: str = "bf16",
    progress: Progress,
    device: str = "cuda",
    transformer: Future[LoadedModule] | None = None,
) -> tuple[DiffusionPipeline, FastPath]:
    """Load a pipeline of class `pipeline_class` from a folder in diffusers' layout, as fast as the disk allows.

    `transformer` is the result of a `read_transformer` in another thread. `progress` is called with the current stage,
    the bytes read, and their total. A CPU is for tests only, with Triton's interpreter.
    """
    from transformers import T5Config, T5EncoderModel

    began = time.perf_counter()
    with torch.device("meta"):
        t5 = T5EncoderModel(T5Config.from_pretrained(folder / "text_encoder_2")).eval()
    quantized = {} if precision == "bf16" else use_fp8_weights(t5, device)
    _materialize(t5, device)
    encoder = _read_into(t5, parameter_map(t5) | quantized, folder / "text_encoder_2", progress, device, began)
    if transformer is None:
        denoiser = read_transformer(folder, precision=precision, progress=progress, device=device)
    else:
        denoiser = transformer.result()
    progress("assembling the pipeline", None, None)
    pipeline = pipeline_class.from_pretrained(
        folder,
        transformer=None,
        text_encoder_2=t5,
        dtype=torch.bfloat16,
        variant=checkpoint.weight_files(folder / "vae")[1],
        local_files_only=True,
    )
    pipeline.register_modules(transformer=denoiser.module)  # from_pretrained accepts diffusers' own classes only
    for name in ("text_encoder", "vae"):
        getattr(pipeline, name).to(device)
    fast_path = _connect(pipeline)
    size, seconds = (encoder.size + denoiser.size) / 1e9, encoder.seconds + denoiser.seconds
    fast_path.info["weights_read"] = f"{size:.1f} GB in {seconds:.1f} s ({size / seconds:.1f} GB/s)"
    return pipeline, fast_path


def _read_into(
    module: nn.Module,
    writers: Mapping[str, Callable[[Tensor], object]],
    folder: Path,
    progress: Progress,
    device: str,
    began: float,
) -> LoadedModule:
    """Read a folder's weight files into a module; `began` is when its construction began."""
    size = read_weights(
        checkpoint.weight_files(folder)[0], writers, partial(progress, f"reading {folder.name}"), device
    )
    return LoadedModule(module, size, time.perf_counter() - began)


def _materialize(module: Any, device: str) -> None:  # transformers declares a wrong type for `PreTrainedModel.to`
    """Allocate the parameters of a module on the meta device, uninitialized, in bf16 on `device`."""
    for part in module.modules():
        for name, parameter in [*part.named_parameters(recurse=False)]:
            empty = torch.empty_like(parameter, device=device, dtype=torch.bfloat16)
            setattr(part, name, torch.nn.Parameter(empty, requires_grad=False))
    module.tie_weights()
    module.to(device)


def _build_transformer(config: FluxConfig, precision: str, device: str) -> FluxTransformer:
    """Build a transformer; raise ValueError if the device does not support the precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"Precision must be one of {', '.join(PRECISIONS)}; got {precision!r}.")
    if precision != "bf16" and device == "cuda" and torch.cuda.get_device_capability() < _FP8_CAPABILITY:
        raise ValueError(f"Precision {precision} needs an Ada or Hopper GPU. Set IMAGEGEN_PRECISION=bf16.")
    if precision == "fp8+attention" and flash_attention_3() is None:
        raise ValueError(
            "Precision fp8+attention needs a Hopper GPU and the package fa3-fwd. Set IMAGEGEN_PRECISION=fp8."
        )
    fp8_attention = precision == "fp8+attention"
    return FluxTransformer(config, fp8=precision != "bf16", fp8_attention=fp8_attention, device=device)


def _connect(pipeline: DiffusionPipeline) -> FastPath:
    """Connect the transformer to the scheduler, replace the other modules, and find out which attention kernel runs."""
    model: FluxTransformer = pipeline.transformer
    model.bind_scheduler(pipeline.scheduler)
    decoder_warmup = to_channels_last(pipeline.vae)
    fuse_attention(pipeline.text_encoder_2)
    encoders = {name: GraphedEncoder(getattr(pipeline, name)) for name in ("text_encoder", "text_encoder_2")}
    pipeline.register_modules(**encoders)
    kernel = "PyTorch's on the CPU"
    if model.device.type == "cuda":
        kernel = running_kernel(model.heads, model.dim, FP8 if model.fp8_attention else torch.bfloat16)
    log.info("Attention kernel: %s", kernel)
    graph_caches = [model.graphs, *(encoder.graphs for encoder in encoders.values())]
    info = {"transformer": "imagegen.flux", "attention": kernel}
    return FastPath(model, graph_caches, decoder_warmup, info)
