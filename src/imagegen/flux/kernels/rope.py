"""A Triton kernel that normalizes query and key heads and rotates them (RoPE, arXiv 2104.09864)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from imagegen.flux.kernels.fp8 import FP8


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
    part = tl.program_id(1)  # a block of heads: first those of q, then of k, then of v for fp8
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
    """Apply RMSNorm and the rotary embedding to each head of q and k; v stays the same.

    In fp8 the values need no scale: normed q and k are small, v is clamped, and e4m3's precision is relative.

    Args:
        qkv: (B, S, 3, H, Dh) contiguous bf16, updated in place unless `fp8`.
        cos: (S, Dh / 2) float32, for the pairs (0, 1), (2, 3), … of a head.
        sin: likewise.
        text_weights: RMSNorm weights (Dh,) of q and k for the first `text_length` rows.
        image_weights: likewise for the other rows.
        text_length: number of text rows.
        eps: epsilon of the RMSNorm.
        fp8: write the result to a new e4m3 buffer.

    Returns:
        The buffer that attention reads: `qkv` itself or the new one.
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
