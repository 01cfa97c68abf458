"""FLUX.1's transformer on one GPU, with the interface of diffusers' `FluxTransformer2DModel`.

The architecture is that of black-forest-labs/flux, model.py: double blocks, then single blocks (`blocks`). Three things
make it fast:

* One buffer holds both streams, the text's rows first (`blocks.Workspace`). Joint attention and the elementwise kernels
  read it without a concatenation.
* Values that all steps of an image share are computed once (`_Constants`): the rotary table, the projected text, and
  the modulation vectors. The modulation layers are 27 % of the weights and run as one matmul per image.
* No size is a compile-time constant. The first step of a shape captures its 500 kernel launches as CUDA graphs, and
  the next steps replay them (`cuda_graph`). The GPU runs the first graphs while the CPU captures the next ones.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.flux.blocks import DoubleBlock, SingleBlock, Workspace
from imagegen.flux.cuda_graph import CudaGraphCache
from imagegen.flux.linear import Linear
from imagegen.flux.modulation import FoldedGates, ModulationLayout, fold_gates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from diffusers.models.modeling_outputs import Transformer2DModelOutput

_MAX_CONSTANTS = 4  # images whose constants are kept: those of two requests with a negative prompt each


class FluxConfig(Protocol):
    """The settings of diffusers' `FluxTransformer2DModel` that the model reads."""

    in_channels: int
    out_channels: int | None
    num_layers: int
    num_single_layers: int
    attention_head_dim: int
    num_attention_heads: int
    joint_attention_dim: int
    pooled_projection_dim: int
    guidance_embeds: bool
    axes_dims_rope: tuple[int, ...]


class Scheduler(Protocol):
    """The part of diffusers' schedulers that the model reads."""

    timesteps: Tensor
    """(steps,), from 1000 to 0."""


class _Constants(NamedTuple):
    """What all steps of one image share."""

    key: tuple[Tensor | None, ...]
    """The pipeline's own tensors, compared by identity; holding them keeps their identities unique."""
    text: Tensor
    """(B, T, D), the projected text."""
    cos: Tensor
    """(S, Dh / 2) float32."""
    sin: Tensor
    """(S, Dh / 2) float32."""
    times: Tensor
    """(steps,), as the pipeline passes them."""
    modulation: Tensor
    """(steps, B, vectors * D)."""


class _Embedder(nn.Module):
    """Two linear layers with SiLU between them, from a sinusoid or a vector to the model's width (`MLPEmbedder`)."""

    def __init__(self, inputs: int, width: int, *, device: torch.device | str) -> None:
        super().__init__()
        self.linear_1 = Linear(inputs, width, device=device)
        self.linear_2 = Linear(width, width, device=device)

    def forward(self, x: Tensor) -> Tensor:
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return embedded


class FluxTransformer(nn.Module):
    """FLUX.1's transformer (dev, schnell, Fill, Kontext), in bf16 or with fp8 matmuls and attention.

    `config` is that of diffusers' `FluxTransformer2DModel`. `fp8` and `fp8_attention` choose the arithmetic.
    """

    def __init__(
        self,
        config: FluxConfig,
        *,
        fp8: bool = False,
        fp8_attention: bool = False,
        device: torch.device | str = "cuda",
    ) -> None:
        super().__init__()
        self.config = config
        self.fp8, self.fp8_attention = fp8, fp8_attention
        self.graphs = CudaGraphCache()
        self._scheduler: Scheduler | None = None
        self._constants: list[_Constants] = []
        self.heads, self.dim = config.num_attention_heads, config.attention_head_dim
        self.width = width = self.heads * self.dim
        self.layout = ModulationLayout(config.num_layers, config.num_single_layers, width)
        *layers, self.final = self.layout.layers()
        modulation = iter(layers)

        self.image_in = Linear(config.in_channels, width, device=device)
        self.text_in = Linear(config.joint_attention_dim, width, device=device)
        self.time_in = _Embedder(256, width, device=device)
        self.vector_in = _Embedder(config.pooled_projection_dim, width, device=device)
        self.guidance_in = _Embedder(256, width, device=device) if config.guidance_embeds else None
        doubles = [
            DoubleBlock(width, self.dim, next(modulation), next(modulation), fp8=fp8, device=device)
            for _ in range(config.num_layers)
        ]
        singles = [
            SingleBlock(width, self.dim, next(modulation), fp8=fp8, device=device)
            for _ in range(config.num_single_layers)
        ]
        self.double_blocks = cast("Sequence[DoubleBlock]", nn.ModuleList(doubles))
        self.single_blocks = cast("Sequence[SingleBlock]", nn.ModuleList(singles))
        self.modulation = Linear(width, self.layout.size, device=device)
        self.image_out = Linear(width, config.out_channels or config.in_channels, device=device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of inputs and outputs."""
        return torch.bfloat16

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.image_in.weight.device

    def bind_scheduler(self, scheduler: Scheduler) -> None:
        """Set the scheduler. An image's first step then computes the modulation vectors of all its steps at once."""
        self._scheduler = scheduler

    def cache_context(self, name: str) -> AbstractContextManager[None]:
        """Do nothing. Pipelines name guided and unguided calls here for diffusers' own caches."""
        return nullcontext()

    def free_caches(self) -> None:
        """Free the images' constants and the CUDA graphs."""
        self._constants.clear()
        self.graphs.clear()

    @torch.inference_mode()
    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor | None = None,
        joint_attention_kwargs: dict[str, object] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity, with the arguments of diffusers' `FluxTransformer2DModel.forward`.

        Args:
            hidden_states: the latents' patches, (B, N, in_channels).
            encoder_hidden_states: T5's output, (B, T, joint_attention_dim).
            pooled_projections: CLIP's output, (B, pooled_projection_dim).
            timestep: (B,), from 1 to 0, the same for all items.
            img_ids: positions of the patches, (N, 3).
            txt_ids: positions of the text, (T, 3).
            guidance: (B,); required if the model is guidance-distilled.
            joint_attention_kwargs: only `scale`, which is ignored.
            return_dict: return diffusers' output object instead of a tuple.

        Returns:
            The velocity, (B, N, out_channels) in bf16.

        Raises:
            ValueError: if `joint_attention_kwargs` holds adapters, or `guidance` is missing.
        """
        if adapters := set(joint_attention_kwargs or {}) - {"scale"}:
            given = ", ".join(sorted(adapters))
            raise ValueError(f"joint_attention_kwargs may only hold scale; got {given}. Fuse adapters first.")
        constants = self._find_constants(
            encoder_hidden_states, pooled_projections, guidance, img_ids, txt_ids, timestep
        )
        step = (constants.times - timestep[:1]).abs().argmin(dim=0, keepdim=True)
        table = constants.modulation.index_select(0, step)[0]
        inputs = hidden_states.to(self.dtype), constants.text, constants.cos, constants.sin, table
        (out,) = self.graphs(self._denoise, *inputs)
        if not return_dict:
            return (out,)
        # Imported only here, so that weights can be read while another thread imports diffusers.
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(sample=out)

    def _denoise(self, image: Tensor, text: Tensor, cos: Tensor, sin: Tensor, table: Tensor) -> tuple[Tensor]:
        """Run all blocks: image (B, N, in_channels) and projected text (B, T, D) -> (B, N, out_channels)."""
        batch, rows, _ = image.shape
        text_length = text.shape[1]
        x = image.new_empty(batch, text_length + rows, self.width)
        x[:, :text_length] = text
        for item in range(batch):
            self.image_in.store(image[item], x[item, text_length:])
        gates = self._fold_gates(table) if self.fp8 else None
        ws = Workspace.allocate(x, text_length, cos, sin, table, gates, fp8_attention=self.fp8_attention)

        for double_block in self.double_blocks:
            double_block(ws)
            self.graphs.flush()
        for single_block in self.single_blocks:
            single_block(ws)
            self.graphs.flush()

        ws.norm(self.final, out=ws.y)
        return (torch.stack([self.image_out(ws.y[rows]) for rows in ws.image_rows]),)

    def _fold_gates(self, table: Tensor) -> FoldedGates:
        streams = [stream for block in self.double_blocks for stream in (block.image, block.text)]
        layers = [layer for stream in streams for layer in (stream.out, stream.down)]
        return fold_gates(table, layers + [block.out for block in self.single_blocks])

    def _find_constants(
        self,
        text: Tensor,
        pooled: Tensor,
        guidance: Tensor | None,
        img_ids: Tensor,
        txt_ids: Tensor,
        timestep: Tensor,
    ) -> _Constants:
        """Return the constants of the image that these tensors belong to, computed at its first step.

        A pipeline passes the same tensor objects at each of an image's steps, so their identity identifies the image.
        """
        timesteps = None if self._scheduler is None else self._scheduler.timesteps
        key: tuple[Tensor | None, ...] = (text, pooled, guidance, img_ids, txt_ids, timesteps)
        for constants in self._constants:
            if all(a is b for a, b in zip(constants.key, key, strict=True)):
                return constants
        times = self._scheduled_times(timestep)
        if times is None:
            times, key = timestep[:1].clone(), (None,) * len(key)  # a key that is never found again
        cos, sin = _rotary(torch.cat([_unbatched(txt_ids), _unbatched(img_ids)]), self.config.axes_dims_rope)
        table = self._modulate(times, guidance, pooled.to(self.dtype))
        projected = self.text_in(text.to(self.dtype).flatten(0, 1)).view(*text.shape[:2], -1)
        constants = _Constants(key, projected, cos, sin, times, table)
        self._constants = [constants, *self._constants][:_MAX_CONSTANTS]
        return constants

    def _scheduled_times(self, timestep: Tensor) -> Tensor | None:
        """Return the times of all of the scheduler's steps, or None if `timestep` is not one of them."""
        if self._scheduler is None:
            return None
        # Rounds in the same steps as the pipeline does.
        times = self._scheduler.timesteps.to(timestep.device, timestep.dtype) / 1000
        return times if bool((times == timestep[0]).any()) else None  # a GPU sync, once per image

    def _modulate(self, times: Tensor, guidance: Tensor | None, pooled: Tensor) -> Tensor:
        """Compute all modulation vectors at all times: (steps,), (B,), (B, P) -> (steps, B, vectors * D)."""
        vector: Tensor = self.vector_in(pooled)
        if self.guidance_in is not None:
            if guidance is None:
                raise ValueError("guidance is None, but this FLUX model is guidance-distilled. Pass a guidance scale.")
            vector = vector + self.guidance_in(_sinusoid(guidance.to(self.dtype) * 1000).to(self.dtype))
        time: Tensor = self.time_in(_sinusoid(times.to(self.dtype) * 1000).to(self.dtype))
        vec = F.silu(time[:, None] + vector[None])
        table: Tensor = self.modulation(vec.flatten(0, 1))
        return table.view(len(times), len(pooled), -1)


def _sinusoid(positions: Tensor, size: int = 256) -> Tensor:
    """Embed positions (n,) as cosines and sines, (n, size) float32 (arXiv 1706.03762)."""
    half = torch.arange(size // 2, dtype=torch.float32, device=positions.device)
    frequencies = torch.exp(half * (-math.log(10000) / (size // 2)))
    angles = positions[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _rotary(ids: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotary embedding at positions `ids` (S, axes): two (S, Dh / 2) in float32."""
    angles = [
        ids[:, axis, None].double() * 10000.0 ** -(torch.arange(0, size, 2, device=ids.device).double() / size)
        for axis, size in enumerate(axes)
    ]
    joined = torch.cat(angles, dim=-1)
    return joined.cos().float(), joined.sin().float()


def _unbatched(ids: Tensor) -> Tensor:
    return ids[0] if ids.ndim == 3 else ids  # older pipelines add a batch dimension
