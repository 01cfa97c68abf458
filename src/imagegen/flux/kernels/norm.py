"""A Triton kernel that fuses the gated residual, LayerNorm, modulation and fp8 quantization (adaLN-Zero)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl

from imagegen.flux.kernels.fp8 import Quantized, chunk_size

if TYPE_CHECKING:
    from torch import Tensor


class VectorOffsets(NamedTuple):
    """Offsets of a stream's gate, scale and shift vectors in a row of the modulation table, in values."""

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
    for at in tl.static_range(0, D, CHUNK):  # all loads first, so that none waits for a store or a row sum
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
    text: VectorOffsets,
    image: VectorOffsets,
    text_length: int,
    eps: float = 1e-6,
) -> None:
    """Compute x += gate * y, then out = LayerNorm(x) * (1 + scale) + shift (adaLN-Zero, arXiv 2212.09748).

    Args:
        x: the residual stream, (B, S, D) contiguous, updated in place.
        y: (B, S, D) contiguous, or None to add nothing.
        out: (B, S, D) contiguous, bf16 or fp8.
        table: (B, vectors * D), the modulation vectors of each item.
        text: offsets of the vectors of the first `text_length` rows.
        image: offsets of the vectors of the other rows.
        text_length: number of text rows.
        eps: epsilon of the LayerNorm.
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
        CHUNK=chunk_size(width),
        GATED=y is not None,
        QUANTIZE=isinstance(out, Quantized),
        num_warps=4,
    )
