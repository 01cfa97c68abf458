"""A linear layer in bf16 or in fp8 with one scale per row of the weight and of the activation.

The weight is quantized once, as it is loaded; the activation inside the kernel before (`kernels.Quantized`), so that
the product reads half the bytes and runs at twice the rate. Rowwise scaling: arXiv 2208.07339. What is small or
sensitive (modulation, embedders, the last layer) stays in bf16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.flux import cublas
from imagegen.flux.kernels.fp8 import FP8, Quantized

_FP8_MAX = 448.0
_FP8_ROWS = 16  # other GPUs' kernels take fp8 rows by the 16; scales begin at a multiple of 16 bytes everywhere


class Linear(nn.Module):
    """y = x W^T + b, with W (out, in) in bf16, or in e4m3 with a float32 scale per output (out, 1)."""

    def __init__(self, width: int, out: int, *, fp8: bool = False, device: torch.device | str = "cuda") -> None:
        super().__init__()
        self.fp8 = fp8
        self.weight = _frozen(out, width, dtype=FP8 if fp8 else torch.bfloat16, device=device)
        self.bias = _frozen(out, dtype=torch.bfloat16, device=device)
        if fp8:
            self.scale = _frozen(out, 1, dtype=torch.float32, device=device)

    def write(self, part: str, start: int, values: Tensor) -> None:
        """Fill the rows of the `weight` or `bias` from `start` on, quantizing as needed."""
        rows = slice(start, start + values.shape[0])
        if part == "weight" and self.fp8:
            self.weight.data[rows], self.scale.data[rows] = quantize_weight(values.to(self.scale.device))
        else:
            getattr(self, part).data[rows].copy_(values)

    def forward(self, x: Tensor | Quantized, out: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """Multiply rows x (M, in), into `out` (M, out) where given; with GELU after it where `gelu`, in bf16 only."""
        if not isinstance(x, Quantized):
            return self._product(x, out, gelu=gelu)
        room = self._room(x.values, out)
        return self._fp8_product(x, room, self.scale, self.bias, add=False)

    def add(self, x: Quantized, to: Tensor, scale: Tensor, bias: Tensor) -> None:
        """Add to rows `to` (M, out) the product of rows x (M, in) in fp8, with another scale and bias (out,)."""
        self._fp8_product(x, to, scale, bias, add=True)

    def _product(self, x: Tensor, out: Tensor | None, *, gelu: bool) -> Tensor:
        if x.is_cuda:
            return cublas.matmul(x, self.weight, self.bias, self._room(x, out), gelu=gelu)
        y = F.linear(x.float(), self.weight.float(), self.bias.float())  # rounds once, as the GPU does
        y = F.gelu(y, approximate="tanh") if gelu else y
        return y.to(x.dtype) if out is None else out.copy_(y)

    def _fp8_product(self, x: Quantized, y: Tensor, scale: Tensor, bias: Tensor, *, add: bool) -> Tensor:
        rows = x.values.shape[0]
        hopper = cublas.hopper(x.values.device.index)
        if x.scale.data_ptr() % 16 or (rows % _FP8_ROWS and not hopper):
            x = x.padded(_FP8_ROWS)
        if hopper:
            scales = x.scale[:rows], scale
            return cublas.matmul(x.values[:rows], self.weight, bias, y, scales, add=add)
        into = None if add or len(x.values) > rows else y
        # The underscore is PyTorch's; it has kernels of its own for the rows of other GPUs.
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

    def _room(self, x: Tensor, out: Tensor | None) -> Tensor:
        return x.new_empty(x.shape[0], self.weight.shape[0], dtype=torch.bfloat16) if out is None else out


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a weight (out, in) to e4m3 with a float32 scale per output (out, 1)."""
    wide = weight.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12) / _FP8_MAX
    return (wide / scale).to(FP8), scale


def _frozen(*shape: int, dtype: torch.dtype, device: torch.device | str) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype, device=device), requires_grad=False)
