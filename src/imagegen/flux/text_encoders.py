"""FLUX's text encoders, CLIP and T5: replayed as CUDA graphs, T5 with fused attention and optional fp8 weights.

Fp8 halves the 9.5 GB of T5's weights. Activations stay in bf16: T5's have outliers, and a scale that fits them would
leave e4m3 too few bits for the other values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.flux.cuda_graph import CudaGraphCache
from imagegen.flux.kernels.fp8 import FP8, fp8_weight_matmul
from imagegen.flux.linear import quantize_weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel, T5EncoderModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling

_PIPELINE_OPTIONS = {"output_hidden_states": False}  # as in the calls of diffusers' FLUX pipelines


class Fp8WeightLinear(nn.Module):
    """A linear layer without bias, its weight in e4m3 with one float32 scale per output: y = (x values^T) * scale."""

    values: Tensor
    scale: Tensor
    weight = None  # T5 would cast its activations to the dtype of a weight

    def __init__(self, linear: nn.Linear, device: str) -> None:
        super().__init__()
        shape = linear.weight.shape
        self.register_buffer("values", torch.empty(shape, dtype=FP8, device=device))
        self.register_buffer("scale", torch.empty(shape[0], dtype=torch.float32, device=device))

    def write(self, weight: Tensor) -> None:
        """Quantize a weight (out, in) into this layer."""
        values, scale = quantize_weight(weight.to(self.scale.device))
        self.values.copy_(values)
        self.scale.copy_(scale[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        """Return y (…, out) in x's dtype for x (…, in)."""
        if not x.is_cuda:
            return (F.linear(x.float(), self.values.float()) * self.scale).to(x.dtype)
        return fp8_weight_matmul(x.flatten(0, -2), self.values, self.scale).view(*x.shape[:-1], -1)


def use_fp8_weights(t5: T5EncoderModel, device: str) -> dict[str, Callable[[Tensor], object]]:
    """Replace the linear layers of T5's blocks by fp8 ones. Return a function for each weight's name that writes it."""
    writers: dict[str, Callable[[Tensor], object]] = {}
    for name, module in [*t5.encoder.named_modules()]:
        for child, layer in [*module.named_children()]:
            if isinstance(layer, nn.Linear):
                replacement = Fp8WeightLinear(layer, device)
                setattr(module, child, replacement)
                writers[f"encoder.{name}.{child}.weight"] = replacement.write
    return writers


class HeadsFirstEmbedding(nn.Embedding):
    """An embedding whose result (S, S, H) is contiguous as (H, S, S), which is how T5 reads its position bias."""

    def forward(self, buckets: Tensor) -> Tensor:
        """Return the embeddings (S, S, H) of position buckets (S, S)."""
        return super().forward(buckets).permute(2, 0, 1).contiguous().permute(1, 2, 0)


def fuse_attention(t5: T5EncoderModel) -> None:
    """Store T5's position bias in the memory layout that PyTorch's fused attention supports.

    In transformers' layout the heads are innermost. Each layer's attention then falls back to ten float32 kernels.
    """
    blocks: Any = t5.encoder.block  # a module's children have no types of their own
    attention = blocks[0].layer[0].SelfAttention  # only the first layer has the bias; the others reuse it
    weight = attention.relative_attention_bias.weight
    buckets, heads = weight.shape
    attention.relative_attention_bias = HeadsFirstEmbedding(buckets, heads, _weight=weight, _freeze=True)


class GraphedEncoder(nn.Module):
    """A text encoder whose calls replay CUDA graphs: at its size, launching the kernels takes longer than running them.

    Calls with other arguments than those of diffusers' FLUX pipelines, such as a mask, run without a graph.
    """

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.graphs = CudaGraphCache()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights and of the output."""
        dtype: torch.dtype = self.encoder.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.encoder.device
        return device

    def forward(self, *args: Tensor, **options: object) -> BaseModelOutputWithPooling:
        """Return what the encoder returns; a graph is used for token ids (B, T) and the pipelines' options."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        if len(args) != 1 or options != _PIPELINE_OPTIONS:
            output: BaseModelOutputWithPooling = self.encoder(*args, **options)
            return output
        encoded: Any = self.graphs(self._encode, *args)
        return BaseModelOutputWithPooling(*encoded)

    def _encode(self, ids: Tensor) -> tuple[Tensor, ...]:
        output: tuple[Tensor, ...] = self.encoder(ids, **_PIPELINE_OPTIONS).to_tuple()
        return output
