"""The text encoders as CUDA graphs, T5's attention as one kernel, and its weights in fp8 for the fp8 precisions.

That halves its 9.5 GB. Only the weights are quantized, one scale per output; what flows through stays in bf16, since
T5's activations have outliers that three bits of mantissa beside them would lose.
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


class Fp8Weight(nn.Module):
    """In place of an `nn.Linear` without bias: y = (x values^T) * scale."""

    values: Tensor
    scale: Tensor
    weight = None  # T5 would cast its activations to this one's type

    def __init__(self, linear: nn.Linear, device: str) -> None:
        super().__init__()
        shape = linear.weight.shape
        self.register_buffer("values", torch.empty(shape, dtype=FP8, device=device))
        self.register_buffer("scale", torch.empty(shape[0], dtype=torch.float32, device=device))

    def write(self, weight: Tensor) -> None:
        """Quantize a weight (out, in)."""
        values, scale = quantize_weight(weight.to(self.scale.device))
        self.values.copy_(values)
        self.scale.copy_(scale[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out), the product in x's own type."""
        if not x.is_cuda:
            return (F.linear(x.float(), self.values.float()) * self.scale).to(x.dtype)
        return fp8_weight_matmul(x.flatten(0, -2), self.values, self.scale).view(*x.shape[:-1], -1)


def fp8_weights(t5: Any, device: str) -> dict[str, Callable[[Tensor], object]]:
    """Replace the linear layers of T5's blocks; return what writes each of their weights, by its name."""
    places: dict[str, Callable[[Tensor], object]] = {}
    for name, module in [*t5.encoder.named_modules()]:
        for child, layer in [*module.named_children()]:
            if isinstance(layer, nn.Linear):
                replacement = Fp8Weight(layer, device)
                setattr(module, child, replacement)
                places[f"encoder.{name}.{child}.weight"] = replacement.write
    return places


def fuse_attention(t5: Any) -> None:
    """Have T5's position bias lie as PyTorch's fused attention wants it.

    As transformers makes it, the heads innermost, each layer's attention falls back to ten kernels in float32.
    """
    first = t5.encoder.block[0].layer[0].SelfAttention
    compute_bias = first.compute_bias
    first.compute_bias = lambda *given, **options: compute_bias(*given, **options).contiguous()


def record(encoder: Any) -> None:
    """Have a text encoder's forward replayed as a CUDA graph, in place: the GPU is done before the CPU has launched it.

    Called in another way than diffusers' FLUX pipelines do, with a mask for instance, it runs as it is.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    forward = encoder.forward
    as_called = {"output_hidden_states": False}
    recorder = CudaGraphCache()

    def encode(ids: Tensor) -> Any:
        return forward(ids, **as_called).to_tuple()

    def replayed(*given: Any, **options: Any) -> Any:
        if len(given) != 1 or options != as_called:
            return forward(*given, **options)
        encoded: Any = recorder(encode, *given)
        return BaseModelOutputWithPooling(*encoded)

    encoder.forward = replayed
    encoder.recorder, encoder.free_caches = recorder, recorder.clear
