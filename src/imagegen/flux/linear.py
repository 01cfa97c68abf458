"""A linear layer in bf16, or in fp8 with one scale per row of the weight and of the activation.

The weight is quantized once, as it is loaded. The activation is quantized by the kernel that computes it, so the
matmul reads half the bytes and runs at twice the rate. Rowwise scaling: arXiv 2208.07339. Small or sensitive layers
(modulation, embedders, the last layer) stay in bf16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.flux import cublas
from imagegen.flux.kernels.fp8 import FP8, Quantized

_FP8_MAX = 448.0
_FP8_ROWS = 16  # GPUs before Hopper need a multiple of 16 rows; on all GPUs scales must start at a multiple of 16 bytes


class Linear(nn.Module):
    """y = x W^T + b, with W (out, in) in bf16, or in e4m3 with a float32 scale per output (out, 1).

    The matmul has two epilogues: `store` writes y to a buffer, `gated_add` adds gate * y to the residual stream.
    """

    scale: nn.Parameter

    def __init__(self, width: int, out: int, *, fp8: bool = False, device: torch.device | str = "cuda") -> None:
        super().__init__()
        self.fp8 = fp8
        self.weight = _frozen(out, width, dtype=FP8 if fp8 else torch.bfloat16, device=device)
        self.bias = _frozen(out, dtype=torch.bfloat16, device=device)
        if fp8:
            self.scale = _frozen(out, 1, dtype=torch.float32, device=device)

    def write(self, part: str, start: int, values: Tensor) -> None:
        """Copy `values` to the rows of `weight` or `bias` from `start` on; quantize the weight of an fp8 layer."""
        rows = slice(start, start + values.shape[0])
        if part == "weight" and self.fp8:
            self.weight.data[rows], self.scale.data[rows] = quantize_weight(values.to(self.scale.device))
        else:
            getattr(self, part).data[rows].copy_(values)

    def forward(self, x: Tensor | Quantized, *, gelu: bool = False) -> Tensor:
        """Return y (M, out) in bf16 for rows x (M, in); `gelu` as in `store`."""
        values = x.values if isinstance(x, Quantized) else x
        return self.store(x, values.new_empty(values.shape[0], self.weight.shape[0], dtype=torch.bfloat16), gelu=gelu)

    def store(self, x: Tensor | Quantized, out: Tensor, *, gelu: bool = False) -> Tensor:
        """Write y to `out` (M, out) in bf16 for rows x (M, in), and return it.

        `gelu` applies GELU to y, in bf16 only. The rows of x and of `out` may be slices of wider buffers.
        """
        if isinstance(x, Quantized):
            return self._fp8_matmul(x, out, self.scale, self.bias, add=False)
        if x.is_cuda:
            return cublas.matmul(x, self.weight, self.bias, out, gelu=gelu)
        y = F.linear(x.float(), self.weight.float(), self.bias.float())  # y is rounded once, as on the GPU
        return out.copy_(F.gelu(y, approximate="tanh") if gelu else y)

    def gated_add(self, x: Quantized, residual: Tensor, scale: Tensor, bias: Tensor) -> None:
        """Compute residual += gate * y for rows x (M, in) and `residual` (M, out) in bf16. Only for fp8 layers.

        `scale` (out,) and `bias` (out,) are those of the layer times the gate (`modulation.FoldedGates`).
        """
        self._fp8_matmul(x, residual, scale, bias, add=True)

    def _fp8_matmul(self, x: Quantized, y: Tensor, scale: Tensor, bias: Tensor, *, add: bool) -> Tensor:
        rows = x.values.shape[0]
        hopper = cublas.is_hopper(x.values.device.index)
        if x.scale.data_ptr() % 16 or (rows % _FP8_ROWS and not hopper):
            x = x.padded(_FP8_ROWS)
        if hopper:
            scales = x.scale[:rows], scale
            return cublas.matmul(x.values[:rows], self.weight, bias, y, scales, add=add)
        into = None if add or len(x.values) > rows else y
        # PyTorch's private operator also supports GPUs other than Hopper.
        product = torch._scaled_mm(  # noqa: SLF001
            x.values,
            self.weight.t(),
            x.scale,
            scale.view(1, -1),
            bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
            out=into,
        )
        if into is None:
            (y.add_ if add else y.copy_)(product[:rows])
        return y


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a weight (out, in) to e4m3; return it with its float32 scale per output (out, 1)."""
    wide = weight.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12) / _FP8_MAX
    return (wide / scale).to(FP8), scale


def _frozen(*shape: int, dtype: torch.dtype, device: torch.device | str) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype, device=device), requires_grad=False)
