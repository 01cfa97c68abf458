"""FLUX.1's transformer, called as diffusers calls its own, for one Hopper GPU.

The architecture is black-forest-labs' (github.com/black-forest-labs/flux, model.py): double blocks in which text and
image have their own weights and attend jointly, then single blocks over both. What differs is where the time goes:

* One buffer holds both streams, the text's rows first, so joint attention and every elementwise kernel read it
  without a copy; a stream's rows of one item are contiguous, so its products write straight into the buffer.
* What doesn't change within an image is computed once (`_Constants`): the rotary table, the text's projection and the
  modulation vectors of all steps, 27 % of the weights, in one product.
* Nothing depends on a compile-time size. A shape's 500 launches are recorded as CUDA graphs in its first step, while
  the GPU runs those recorded before, and replayed in the next ones (`recording`).
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.flux.attention import attention
from imagegen.flux.cuda_graph import CudaGraphCache
from imagegen.flux.kernels.fp8 import Quantized, quantize_rows
from imagegen.flux.kernels.norm import Modulation, gate_residual_norm
from imagegen.flux.kernels.rope import norm_rope
from imagegen.flux.linear import Linear

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from diffusers.models.modeling_outputs import Transformer2DModelOutput

_KEPT = 4  # images' constants kept: a prompt and its negative one, and the pair before


class _Constants(NamedTuple):
    """What all steps of one image share."""

    given: tuple[Tensor | None, ...]  # the pipeline's own tensors; holding them keeps their identity theirs
    text: Tensor  # (B, T, D), the projected text
    cos: Tensor  # (S, Dh / 2)
    sin: Tensor
    times: Tensor  # (steps,), as the pipeline passes them
    modulation: Tensor  # (steps, B, M)


class _Attention(nn.Module):
    """The projection to q, k and v, and the weights that norm their heads."""

    def __init__(self, width: int, dim: int, *, fp8: bool, device: torch.device | str) -> None:
        super().__init__()
        self.qkv = Linear(width, 3 * width, fp8=fp8, device=device)
        self.q_norm = nn.Parameter(torch.empty(dim, dtype=torch.bfloat16, device=device), requires_grad=False)
        self.k_norm = nn.Parameter(torch.empty(dim, dtype=torch.bfloat16, device=device), requires_grad=False)

    @property
    def norms(self) -> tuple[Tensor, Tensor]:
        return self.q_norm, self.k_norm


class _Stream(_Attention):
    """One stream's weights in a double block."""

    def __init__(self, width: int, dim: int, *, fp8: bool, device: torch.device | str) -> None:
        super().__init__(width, dim, fp8=fp8, device=device)
        self.out = Linear(width, width, fp8=fp8, device=device)
        self.up = Linear(width, 4 * width, fp8=fp8, device=device)
        self.down = Linear(4 * width, width, fp8=fp8, device=device)


class _DoubleBlock(nn.Module):
    def __init__(self, width: int, dim: int, *, fp8: bool, device: torch.device | str) -> None:
        super().__init__()
        self.text = _Stream(width, dim, fp8=fp8, device=device)
        self.image = _Stream(width, dim, fp8=fp8, device=device)


class _SingleBlock(_Attention):
    def __init__(self, width: int, dim: int, *, fp8: bool, device: torch.device | str) -> None:
        super().__init__(width, dim, fp8=fp8, device=device)
        self.up = Linear(width, 4 * width, fp8=fp8, device=device)
        self.out = Linear(5 * width, width, fp8=fp8, device=device)


class _Embedder(nn.Module):
    """Two layers with SiLU between, from a sinusoid or a vector to the model's width."""

    def __init__(self, inputs: int, width: int, *, device: torch.device | str) -> None:
        super().__init__()
        self.linear_1 = Linear(inputs, width, device=device)
        self.linear_2 = Linear(width, width, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))  # type: ignore[no-any-return]  # nn.Module's call is Any


class FluxTransformer(nn.Module):
    """FLUX.1's transformer (dev, schnell, Fill, Kontext), in bf16 or with fp8 products and attention.

    `config` is that of diffusers' `FluxTransformer2DModel`; `fp8` and `fp8_attention` choose the arithmetic. Set
    `scheduler` to the pipeline's, so that the modulation of all its steps is computed at the first.
    """

    def __init__(
        self,
        config: Any,
        *,
        fp8: bool = False,
        fp8_attention: bool = False,
        device: torch.device | str = "cuda",
    ) -> None:
        super().__init__()
        self.config: Any = config
        self.fp8, self.fp8_attention = fp8, fp8_attention
        self.scheduler: Any = None
        self._images: list[_Constants] = []
        self.recorder = CudaGraphCache()
        self.heads, self.dim = config.num_attention_heads, config.attention_head_dim
        self.width = width = self.heads * self.dim
        self.image_in = Linear(config.in_channels, width, device=device)
        self.text_in = Linear(config.joint_attention_dim, width, device=device)
        self.time_in = _Embedder(256, width, device=device)
        self.vector_in = _Embedder(config.pooled_projection_dim, width, device=device)
        self.guidance_in = _Embedder(256, width, device=device) if config.guidance_embeds else None
        self.double_blocks = nn.ModuleList(
            _DoubleBlock(width, self.dim, fp8=fp8, device=device) for _ in range(config.num_layers)
        )
        self.single_blocks = nn.ModuleList(
            _SingleBlock(width, self.dim, fp8=fp8, device=device) for _ in range(config.num_single_layers)
        )
        self.modulation = Linear(width, self.modulation_rows * width, device=device)
        self.image_out = Linear(width, config.out_channels or config.in_channels, device=device)

    @property
    def modulation_rows(self) -> int:
        """Vectors per step: 6 per stream of a double block, 3 per single block, 2 at the end."""
        return 12 * len(self.double_blocks) + 3 * len(self.single_blocks) + 2

    @property
    def dtype(self) -> torch.dtype:
        """What goes in and comes out."""
        return torch.bfloat16

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.image_in.weight.device

    def cache_context(self, name: str) -> AbstractContextManager[None]:
        """Pipelines name their guided and unguided calls; here each finds its constants by its tensors."""
        return nullcontext()

    def free_caches(self) -> None:
        """Free what is kept between images: their constants and the CUDA graphs."""
        self._images.clear()
        self.recorder.clear()

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
        joint_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity: (B, N, in_channels) -> (B, N, out_channels), with T text rows and ids (·, 3).

        `timestep` runs from 1 to 0. Adapters in `joint_attention_kwargs` are refused: they need diffusers' model.
        """
        if set(joint_attention_kwargs or {}) - {"scale"}:
            raise ValueError("the fast transformer takes no attention adapters")
        constants = self._constants(encoder_hidden_states, pooled_projections, guidance, img_ids, txt_ids, timestep)
        step = (constants.times - timestep[:1]).abs().argmin(dim=0, keepdim=True)
        table = constants.modulation.index_select(0, step)[0]
        given = hidden_states.to(self.dtype), constants.text, constants.cos, constants.sin, table
        (out,) = self.recorder(self._denoise, *given)
        if not return_dict:
            return (out,)
        # Only here, so that weights can be read while diffusers is being imported.
        from diffusers.models.modeling_outputs import Transformer2DModelOutput

        return Transformer2DModelOutput(sample=out)

    def _denoise(self, image: Tensor, text_rows: Tensor, cos: Tensor, sin: Tensor, table: Tensor) -> tuple[Tensor]:
        """Run all blocks over the rows of text and image."""
        batch, rows, _ = image.shape
        text = text_rows.shape[1]
        x = image.new_empty(batch, text + rows, self.width)
        x[:, :text] = text_rows
        for item in range(batch):
            self.image_in(image[item], out=x[item, text:])
        y = torch.empty_like(x)
        normed = Quantized.empty(*x.shape, device=x.device) if self.fp8 else torch.empty_like(x)
        stages = _stages(self.config.num_layers, self.config.num_single_layers, self.width)

        def norm(stage: tuple[Modulation, Modulation], update: Tensor | None, out: Any = normed) -> None:
            gate_residual_norm(x, update, out, table, *stage, text)

        def attend(qkv: Tensor, text_norms: Any, norms: Any, length: int, out: Tensor | None = None) -> Tensor:
            heads = qkv.view(*qkv.shape[:2], 3, self.heads, self.dim)
            return attention(norm_rope(heads, cos, sin, text_norms, norms, length, fp8=self.fp8_attention), out)

        gated = self._gated(table) if self.fp8 else None

        def close(layer: Linear, given: Any, rows: tuple[int, slice]) -> None:
            """End a layer with its last product: in bf16 into y, for `norm` to gate and add; in fp8 gated, onto x."""
            if gated is None:
                layer(given, out=y[rows])
            else:
                scale, bias = (part[rows[0]] for part in gated[layer])
                layer.add(given, x[rows], scale, bias)

        update = None if self.fp8 else y
        norm(next(stages), None)
        for block in self.double_blocks:
            self._attend_double(block, normed, attend, close, text)
            norm(next(stages), update)
            self._feed_forward(block, normed, close, text)
            norm(next(stages), update)
            self.recorder.flush()
        for block in self.single_blocks:
            self._single(block, normed, attend, close)
            last = block is self.single_blocks[-1]
            norm(next(stages), update, out=y if last else normed)
            self.recorder.flush()
        return (torch.stack([self.image_out(y[item, text:]) for item in range(batch)]),)

    def _attend_double(self, block: Any, normed: Any, attend: Any, close: Any, text: int) -> None:
        """Joint attention: the streams' own projections around it, each of its own rows."""
        batch, length, width = _shape(normed)
        qkv = torch.empty(batch, length, 3 * width, dtype=self.dtype, device=self.device)
        for stream, rows in _streams(block, batch, text):
            stream.qkv(_take(normed, rows), out=qkv[rows])
        out: Any = attend(qkv, block.text.norms, block.image.norms, text)
        if self.fp8:
            out = quantize_rows(attention=out)
        for stream, rows in _streams(block, batch, text):
            close(stream.out, _take(out, rows), rows)

    def _feed_forward(self, block: Any, normed: Any, close: Any, text: int) -> None:
        batch, length, width = _shape(normed)
        if not self.fp8:
            for stream, rows in _streams(block, batch, text):
                close(stream.down, stream.up(normed[rows], gelu=True), rows)
            return
        hidden = torch.empty(batch, length, 4 * width, dtype=self.dtype, device=self.device)
        for stream, rows in _streams(block, batch, text):
            stream.up(_take(normed, rows), out=hidden[rows])
        quantized = quantize_rows(hidden=hidden)
        for stream, rows in _streams(block, batch, text):
            close(stream.down, _take(quantized, rows), rows)

    def _single(self, block: Any, normed: Any, attend: Any, close: Any) -> None:
        """Attention and feed-forward side by side on the same rows, then one projection of both."""
        batch, length, width = _shape(normed)
        flat = Quantized(*(t.flatten(0, 1) for t in normed)) if self.fp8 else normed.flatten(0, 1)
        qkv = block.qkv(flat).view(batch, length, -1)
        if self.fp8:
            both = quantize_rows(attend(qkv, block.norms, block.norms, 0), block.up(flat).view(batch, length, -1))
        else:
            both = qkv.new_empty(batch, length, 5 * width)
            attend(qkv, block.norms, block.norms, 0, both[..., :width])
            block.up(flat, out=both.flatten(0, 1)[:, width:], gelu=True)
        for rows in ((item, slice(None)) for item in range(batch)):
            close(block.out, _take(both, rows), rows)

    def _gated(self, table: Tensor) -> dict[Any, tuple[Tensor, Tensor]]:
        """Scale and bias (B, D) of each product in fp8 that a gate follows, times that gate, from the table (B, M)."""
        doubles: list[Any] = [stream for block in self.double_blocks for stream in (block.image, block.text)]
        singles: list[Any] = [*self.single_blocks]
        layers = [layer for stream in doubles for layer in (stream.out, stream.down)] + [each.out for each in singles]
        gates = table.view(len(table), -1, self.width)[:, 2::3]  # the third of each triple, in the same order
        scales = gates * torch.cat([layer.scale for layer in layers]).view(-1, self.width)
        biases = gates * torch.cat([layer.bias for layer in layers]).view(-1, self.width)
        return dict(zip(layers, zip(scales.unbind(1), biases.unbind(1), strict=True), strict=True))

    def _constants(
        self,
        text: Tensor,
        pooled: Tensor,
        guidance: Tensor | None,
        img_ids: Tensor,
        txt_ids: Tensor,
        timestep: Tensor,
    ) -> _Constants:
        """Find this image's constants by the very tensors the pipeline passes at each of its steps."""
        times = getattr(self.scheduler, "timesteps", None)
        given: tuple[Any, ...] = (text, pooled, guidance, img_ids, txt_ids, times)
        for constants in self._images:
            if all(a is b for a, b in zip(constants.given, given, strict=True)):
                return constants
        # The same chain of roundings as the pipeline's own.
        scheduled = None if times is None else times.to(timestep.device, timestep.dtype) / 1000
        known = scheduled is not None and bool((scheduled == timestep[0]).any())  # once per image
        if scheduled is None or not known:
            scheduled, given = timestep[:1].clone(), (None,) * len(given)  # a lone call: nothing to reuse
        cos, sin = _rotary(torch.cat([_flat(txt_ids), _flat(img_ids)]), self.config.axes_dims_rope)
        table = self._modulate(scheduled, guidance, pooled.to(self.dtype))
        projected = self.text_in(text.to(self.dtype).flatten(0, 1)).view(*text.shape[:2], -1)
        constants = _Constants(given, projected, cos, sin, scheduled, table)
        self._images = [constants, *self._images][:_KEPT]
        return constants

    def _modulate(self, times: Tensor, guidance: Tensor | None, pooled: Tensor) -> Tensor:
        """All modulation vectors at all times: (steps,), (B,), (B, P) -> (steps, B, M)."""
        vector = self.vector_in(pooled)
        if self.guidance_in is not None:
            if guidance is None:
                raise ValueError("this model is guidance-distilled: pass `guidance`")
            vector = vector + self.guidance_in(_sinusoid(guidance.to(self.dtype) * 1000).to(self.dtype))
        time = self.time_in(_sinusoid(times.to(self.dtype) * 1000).to(self.dtype))
        embedding = F.silu(time[:, None] + vector[None])
        table = self.modulation(embedding.flatten(0, 1))
        return table.view(len(times), len(pooled), -1)  # type: ignore[no-any-return]  # nn.Module's call is Any


def _streams(block: Any, batch: int, text: int) -> list[tuple[Any, tuple[int, slice]]]:
    """Each stream's weights with its rows of each item, the image's first: they are the longer work."""
    spans = ((block.image, slice(text, None)), (block.text, slice(text)))
    return [(stream, (item, rows)) for stream, rows in spans for item in range(batch)]


def _shape(x: Any) -> Any:
    return (x.values if isinstance(x, Quantized) else x).shape


def _take(x: Any, rows: tuple[int, slice]) -> Any:
    return Quantized(*(part[rows] for part in x)) if isinstance(x, Quantized) else x[rows]


def _stages(doubles: int, singles: int, width: int) -> Any:
    """The vectors of each gate-residual-norm in order: the gate of one layer, scale and shift of the next.

    A row of the table holds, per double block, shift, scale and gate before attention and then before the
    feed-forward, for the image and then for the text; per single block one such triple; last, scale and shift.
    """
    triples = []
    for block in range(doubles):
        image, text = 12 * block, 12 * block + 6
        triples += [(text, image), (text + 3, image + 3)]
    for block in range(singles):
        triples.append((12 * doubles + 3 * block,) * 2)
    end = 12 * doubles + 3 * singles

    def vectors(before: int | None, after: int | None) -> Modulation:
        gate = 0 if before is None else (before + 2) * width
        scale, shift = (end, end + 1) if after is None else (after + 1, after)
        return Modulation(gate, scale * width, shift * width)

    for before, after in pairwise([(None, None), *triples, (None, None)]):
        yield tuple(vectors(b, a) for b, a in zip(before, after, strict=True))


def _sinusoid(positions: Tensor, size: int = 256) -> Tensor:
    """Embed positions (n,) as cosines and sines, (n, size) float32 (arXiv 1706.03762)."""
    half = torch.arange(size // 2, dtype=torch.float32, device=positions.device)
    frequencies = torch.exp(half * (-math.log(10000) / (size // 2)))
    angles = positions[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _rotary(ids: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotation of each pair at ids (S, axes): two (S, Dh / 2) in float32."""
    angles = [
        ids[:, axis, None].double() * 10000.0 ** -(torch.arange(0, size, 2, device=ids.device).double() / size)
        for axis, size in enumerate(axes)
    ]
    joined = torch.cat(angles, dim=-1)
    return joined.cos().float(), joined.sin().float()


def _flat(ids: Tensor) -> Tensor:
    return ids[0] if ids.ndim == 3 else ids  # older pipelines add a batch dimension
