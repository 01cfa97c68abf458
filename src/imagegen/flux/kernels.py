"""FLUX's Triton kernels: its memory-bound chains as one pass each over their data, and a product that cuBLAS lacks.

Everything between two matrix products or attention calls is one of these:

* `gate_residual_norm`: x += gate * y, then LayerNorm(x) * (1 + scale) + shift (adaLN-Zero, arXiv 2212.09748)
* `norm_rope`: RMSNorm of each query and key head, then its rotation, in place (RoPE, arXiv 2104.09864)
* `quantize_rows`: GELU and rowwise fp8 of what an fp8 product reads next

The product is T5's: `fp8_weight_product` widens a weight in fp8 on its way into the tensor cores.

A sequence holds the text's rows first, then the image's; where the two streams have weights of their own, a
kernel picks them by row. All arithmetic is float32 and rounds once, on the store. Lengths are never
compile-time constants, so that a new size needs no new kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

FP8 = torch.float8_e4m3fn  # its largest value is 448


class Quantized(NamedTuple):
    """Rows in fp8: `values` (…, K) in e4m3 and one float32 `scale` per row (…, 1), x ≈ values * scale."""

    values: Tensor
    scale: Tensor

    @classmethod
    def empty(cls, *shape: int, device: torch.device) -> Quantized:
        """Room for rows of `shape[-1]` values."""
        return cls(
            torch.empty(shape, dtype=FP8, device=device),
            torch.empty((*shape[:-1], 1), dtype=torch.float32, device=device),
        )

    def padded(self, multiple: int) -> Quantized:
        """These rows (M, K), copied, with rows of zeros up to a multiple."""
        rows, width = self.values.shape
        out = Quantized.empty(triton.cdiv(rows, multiple) * multiple, width, device=self.values.device)
        out.values[rows:], out.scale[rows:] = 0, 0
        out.values[:rows], out.scale[:rows] = self.values, self.scale
        return out


class Modulation(NamedTuple):
    """Where one stream's gate, scale and shift vectors begin in a row of the modulation table."""

    gate: int
    scale: int
    shift: int


@triton.jit(do_not_specialize=["length", "text_length"])
def _gate_residual_norm(
    x,
    y,
    out,
    scale_out,
    table,
    length,
    text_length,
    table_stride,
    text_gate,
    text_scale,
    text_shift,
    gate,
    scale,
    shift,
    EPS: tl.constexpr,
    D: tl.constexpr,
    CHUNK: tl.constexpr,
    GATED: tl.constexpr,
    QUANTIZE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    item = row // length
    if row % length < text_length:
        gate, scale, shift = text_gate, text_scale, text_shift
    table += item * table_stride
    cols = tl.arange(0, CHUNK)
    total = tl.zeros((CHUNK,), tl.float32)
    chunks, scales, shifts = (), (), ()
    for at in tl.static_range(0, D, CHUNK):  # all loads first: none is to wait for a store, or for a sum over the row
        values = tl.load(x + row * D + at + cols).to(tl.float32)
        if GATED:
            gates = tl.load(table + gate + at + cols).to(tl.float32)
            values += gates * tl.load(y + row * D + at + cols).to(tl.float32)
            values = values.to(x.dtype.element_ty).to(tl.float32)
        total += values
        chunks = chunks + (values,)  # type: ignore[assignment]  # noqa: RUF005  # Triton has no unpacking
        scales = scales + (tl.load(table + scale + at + cols),)  # type: ignore[assignment]  # noqa: RUF005
        shifts = shifts + (tl.load(table + shift + at + cols),)  # type: ignore[assignment]  # noqa: RUF005
    mean = tl.sum(total, axis=0) / D
    squares = tl.zeros((CHUNK,), tl.float32)
    for i in tl.static_range(D // CHUNK):
        squares += (chunks[i] - mean) * (chunks[i] - mean)
        if GATED:
            tl.store(x + row * D + i * CHUNK + cols, chunks[i].to(x.dtype.element_ty))
    root = tl.rsqrt(tl.sum(squares, axis=0) / D + EPS)
    normed = ()
    peaks = tl.zeros((CHUNK,), tl.float32)
    for i in tl.static_range(D // CHUNK):
        values = (chunks[i] - mean) * root * (1.0 + scales[i].to(tl.float32)) + shifts[i].to(tl.float32)
        peaks = tl.maximum(peaks, tl.abs(values))
        normed = normed + (values,)  # noqa: RUF005
    inverse = 1.0
    if QUANTIZE:
        peak = tl.maximum(tl.max(peaks, axis=0), 448.0e-12)
        tl.store(scale_out + row, peak / 448.0)
        inverse = 448.0 / peak
    for i in tl.static_range(D // CHUNK):
        values = normed[i]
        if QUANTIZE:
            values = values * inverse
        tl.store(out + row * D + i * CHUNK + cols, values.to(out.dtype.element_ty))


def gate_residual_norm(
    x: Tensor,
    y: Tensor | None,
    out: Tensor | Quantized,
    table: Tensor,
    text: Modulation,
    image: Modulation,
    text_length: int,
    eps: float = 1e-6,
) -> None:
    """Compute x += gate * y (unless `y` is None), then out = LayerNorm(x) * (1 + scale) + shift, by chunks (`_chunk`).

    x, y, out: (B, S, D) contiguous; x is updated in place. table: (B, M), one row of vectors per item, in which
    `text` and `image` say where the streams' vectors begin. The first `text_length` rows are text.
    """
    batch, length, width = x.shape
    values, scale = out if isinstance(out, Quantized) else (out, out)
    _gate_residual_norm[(batch * length,)](
        x,
        x if y is None else y,
        values,
        scale,
        table,
        length,
        text_length,
        table.stride(0),
        text.gate,
        text.scale,
        text.shift,
        image.gate,
        image.scale,
        image.shift,
        EPS=eps,
        D=width,
        CHUNK=_chunk(width),
        GATED=y is not None,
        QUANTIZE=isinstance(out, Quantized),
        num_warps=4,
    )


@triton.jit(do_not_specialize=["length", "text_length"])
def _norm_rope(
    qkv,
    out,
    cos,
    sin,
    text_q_weight,
    text_k_weight,
    q_weight,
    k_weight,
    length,
    text_length,
    EPS: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    FP8_OUT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)  # blocks of heads: those of q, then of k, and for fp8 of v
    position = row % length
    blocks: tl.constexpr = (HEADS + BLOCK - 1) // BLOCK
    which = part // blocks
    heads = (part % blocks) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, DIM)
    pair = tl.arange(0, DIM // 2)
    where = row * (3 * HEADS * DIM) + which * (HEADS * DIM) + heads[:, None] * DIM + lane[None, :]
    mask = (heads < HEADS)[:, None] & (lane >= 0)[None, :]
    x = tl.load(qkv + where, mask=mask, other=0.0).to(tl.float32)
    if which < 2:
        if position < text_length:
            q_weight, k_weight = text_q_weight, text_k_weight
        weight = tl.load((q_weight if which == 0 else k_weight) + lane).to(tl.float32)[None, :]
        c = tl.load(cos + position * (DIM // 2) + pair)[None, :]
        s = tl.load(sin + position * (DIM // 2) + pair)[None, :]
        x = x * tl.rsqrt(tl.sum(x * x, axis=1) / DIM + EPS)[:, None] * weight
        even, odd = tl.split(tl.reshape(x, (BLOCK, DIM // 2, 2)))
        x = tl.reshape(tl.join(even * c - odd * s, odd * c + even * s), (BLOCK, DIM))
    if FP8_OUT:
        x = tl.clamp(x, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + where, x.to(out.dtype.element_ty), mask=mask)


def norm_rope(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    text_weights: tuple[Tensor, Tensor],
    image_weights: tuple[Tensor, Tensor],
    text_length: int,
    eps: float = 1e-6,
    *,
    fp8: bool = False,
) -> Tensor:
    """RMSNorm each head of q and k and rotate it; v stays as it is. Returns where attention reads.

    qkv: (B, S, 3, H, Dh) contiguous, changed in place; with `fp8` a new e4m3 buffer is filled instead. Its values
    need no scale: normed q and k are small, v is clamped, and e4m3's precision is relative. cos, sin: (S, Dh / 2)
    float32, for the pairs (0, 1), (2, 3), … of a head. Weights: (q, k) of Dh values each; the first `text_length`
    rows take the text's.
    """
    batch, length, _, heads, dim = qkv.shape
    out = torch.empty_like(qkv, dtype=FP8) if fp8 else qkv
    block = 8
    _norm_rope[(batch * length, (3 if fp8 else 2) * triton.cdiv(heads, block))](
        qkv,
        out,
        cos,
        sin,
        *text_weights,
        *image_weights,
        length,
        text_length,
        EPS=eps,
        HEADS=heads,
        DIM=dim,
        BLOCK=block,
        FP8_OUT=fp8,
        num_warps=1,
    )
    return out


@triton.jit
def _gelu(x, HARDWARE_TANH: tl.constexpr):
    """GELU in its tanh form, as FLUX was trained with; the GPU's own tanh is right to 11 bits, fp8 keeps 4."""
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
    """Rowwise fp8 of [attention | GELU(hidden)], either of which may be absent: the join costs no extra pass.

    attention: (B, S, A), hidden: (B, S, H), contiguous -> values (B, S, A + H).
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
        CHUNK_A=_chunk(a),
        CHUNK_H=_chunk(h),
        HARDWARE_TANH=given[0].is_cuda,
        num_warps=8,
    )
    return out


def _chunk(width: int) -> int:
    """The largest power of two that divides a row, so that no lane is idle; at most 4096, at least 1."""
    return min(width & -width, 4096) or 1


@triton.jit(do_not_specialize=["rows"])
def _fp8_weight_product(
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
    # The transpose of y: the weight is what tensor cores can take from registers, where it is widened.
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for _ in range(0, K, BLOCK_K):
        wide = tl.load(weight, mask=(col < N)[:, None], other=0.0).to(tl.bfloat16)
        total = tl.dot(wide, tl.load(x, mask=(row < rows)[None, :], other=0.0), total)
        x += BLOCK_K
        weight += BLOCK_K
    total *= tl.load(scale + col, mask=col < N, other=0.0)[:, None]
    where = row.to(tl.int64)[None, :] * N + col[:, None]
    tl.store(y + where, total.to(y.dtype.element_ty), mask=(row < rows)[None, :] & (col < N)[:, None])


def fp8_weight_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply rows x (M, K) in bf16 with an e4m3 weight (N, K) that has one float32 factor per row (N,): (M, N).

    K is a multiple of 16.
    """
    (rows, inner), out = x.shape, weight.shape[0]
    y = x.new_empty(rows, out)
    block_m, block_n = 128, 64
    _fp8_weight_product[(triton.cdiv(rows, block_m), triton.cdiv(out, block_n))](
        x,
        weight,
        scale,
        y,
        rows,
        N=out,
        K=inner,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=min(_chunk(inner), 128),
        num_warps=4,
        num_stages=3,
    )
    return y
