"""Triton kernels that quantize rows to fp8, and a matmul with an fp8 weight and bf16 activations."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

FP8 = torch.float8_e4m3fn  # largest value: 448


class Quantized(NamedTuple):
    """Rows in fp8: `values` (…, K) in e4m3 and one float32 `scale` per row (…, 1), with x ≈ values * scale."""

    values: Tensor
    scale: Tensor

    @classmethod
    def empty(cls, *shape: int, device: torch.device) -> Quantized:
        """Allocate rows of `shape[-1]` values."""
        return cls(
            torch.empty(shape, dtype=FP8, device=device),
            torch.empty((*shape[:-1], 1), dtype=torch.float32, device=device),
        )

    def padded(self, multiple: int) -> Quantized:
        """Return a copy of these rows (M, K) with zero rows appended, so that their number is a multiple."""
        rows, width = self.values.shape
        out = Quantized.empty(triton.cdiv(rows, multiple) * multiple, width, device=self.values.device)
        out.values[rows:], out.scale[rows:] = 0, 0
        out.values[:rows], out.scale[:rows] = self.values, self.scale
        return out


@triton.jit
def _gelu(x, HARDWARE_TANH: tl.constexpr):
    """Apply GELU in its tanh form, as in FLUX. The GPU's own tanh is exact to 11 bits, of which fp8 keeps 4."""
    u = x * (0.7978845608028654 + 0.035677408136300125 * x * x)
    if HARDWARE_TANH:
        tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1)
    else:
        tanh = 2.0 * tl.sigmoid(2.0 * u) - 1.0
    half = 0.5 * x
    return half + half * tanh


@triton.jit
def _quantize_rows(
    a,
    h,
    out,
    scale_out,
    A: tl.constexpr,
    H: tl.constexpr,
    CHUNK_A: tl.constexpr,
    CHUNK_H: tl.constexpr,
    HARDWARE_TANH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    a_cols = tl.arange(0, CHUNK_A)
    h_cols = tl.arange(0, CHUNK_H)
    a_chunks, h_chunks = (), ()
    a_peaks = tl.zeros((CHUNK_A,), tl.float32)
    h_peaks = tl.zeros((CHUNK_H,), tl.float32)
    for at in tl.static_range(0, A, CHUNK_A):
        values = tl.load(a + row * A + at + a_cols).to(tl.float32)
        a_peaks = tl.maximum(a_peaks, tl.abs(values))
        a_chunks = a_chunks + (values,)  # type: ignore[assignment]  # noqa: RUF005  # Triton has no unpacking
    for at in tl.static_range(0, H, CHUNK_H):
        values = _gelu(tl.load(h + row * H + at + h_cols).to(tl.float32), HARDWARE_TANH)
        h_peaks = tl.maximum(h_peaks, tl.abs(values))
        h_chunks = h_chunks + (values,)  # type: ignore[assignment]  # noqa: RUF005
    peak = tl.maximum(tl.maximum(tl.max(a_peaks, axis=0), tl.max(h_peaks, axis=0)), 448.0e-12)
    tl.store(scale_out + row, peak / 448.0)
    inverse = 448.0 / peak
    out += row * (A + H)
    for i in tl.static_range(A // CHUNK_A):
        tl.store(out + i * CHUNK_A + a_cols, (a_chunks[i] * inverse).to(out.dtype.element_ty))
    for i in tl.static_range(H // CHUNK_H):
        tl.store(out + A + i * CHUNK_H + h_cols, (h_chunks[i] * inverse).to(out.dtype.element_ty))


def quantize_rows(attention: Tensor | None = None, hidden: Tensor | None = None) -> Quantized:
    """Quantize [attention | GELU(hidden)] with one scale per row; either part may be missing.

    attention: (B, S, A), hidden: (B, S, H), both contiguous -> values (B, S, A + H).
    """
    given = [t for t in (attention, hidden) if t is not None]
    batch, length, _ = given[0].shape
    a = 0 if attention is None else attention.shape[-1]
    h = 0 if hidden is None else hidden.shape[-1]
    out = Quantized.empty(batch, length, a + h, device=given[0].device)
    _quantize_rows[(batch * length,)](
        given[0],
        given[-1],
        out.values,
        out.scale,
        A=a,
        H=h,
        CHUNK_A=chunk_size(a),
        CHUNK_H=chunk_size(h),
        HARDWARE_TANH=given[0].is_cuda,
        num_warps=8,
    )
    return out


def chunk_size(width: int) -> int:
    """Return the largest power of two that divides `width`, at most 4096, so that no lane is idle; 1 for 0."""
    return min(width & -width, 4096) or 1


@triton.jit(do_not_specialize=["rows"])
def _fp8_weight_matmul(
    x,
    weight,
    scale,
    y,
    rows,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    x += row.to(tl.int64)[None, :] * K + inner[:, None]
    weight += col.to(tl.int64)[:, None] * K + inner[None, :]
    # Computes y^T: tensor cores read their first operand from registers, where the weight is converted to bf16.
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for _ in range(0, K, BLOCK_K):
        wide = tl.load(weight, mask=(col < N)[:, None], other=0.0).to(tl.bfloat16)
        total = tl.dot(wide, tl.load(x, mask=(row < rows)[None, :], other=0.0), total)
        x += BLOCK_K
        weight += BLOCK_K
    total *= tl.load(scale + col, mask=col < N, other=0.0)[:, None]
    where = row.to(tl.int64)[None, :] * N + col[:, None]
    tl.store(y + where, total.to(y.dtype.element_ty), mask=(row < rows)[None, :] & (col < N)[:, None])


def fp8_weight_matmul(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Compute y = (x weight^T) * scale, (M, N) in bf16, which cuBLAS does not offer.

    x: (M, K) bf16; weight: (N, K) e4m3; scale: (N,) float32. K must be a multiple of 16.
    """
    (rows, inner), out = x.shape, weight.shape[0]
    y = x.new_empty(rows, out)
    block_m, block_n = 128, 64
    _fp8_weight_matmul[(triton.cdiv(rows, block_m), triton.cdiv(out, block_n))](
        x,
        weight,
        scale,
        y,
        rows,
        N=out,
        K=inner,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=min(chunk_size(inner), 128),
        num_warps=4,
        num_stages=3,
    )
    return y
