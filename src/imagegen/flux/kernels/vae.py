"""Triton kernels of the VAE, for channels-last images whose number of channels is a power of two.

* `group_norm`: GroupNorm and SiLU of a convolution's result, after adding the convolution's bias
* `add_`: a convolution's bias, and the sum at a residual block's end
* `upsample`: nearest-neighbour upsampling
* `softmax`: softmax of attention scores

The final sums of GroupNorm are float64; all other arithmetic is float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS = 1024  # per image, for the statistics of GroupNorm


@triton.jit(do_not_specialize=["pixels", "share"])
def _group_sums(x, shift, sums, pixels, share, C: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    block, item = tl.program_id(0), tl.program_id(1).to(tl.int64)
    cols = tl.arange(0, C)
    total = tl.zeros((BLOCK, C), tl.float32)
    squares = tl.zeros((BLOCK, C), tl.float32)
    for at in range(block * share, (block + 1) * share, BLOCK):
        rows = at + tl.arange(0, BLOCK)
        mask = (rows < pixels)[:, None]
        where = (item * pixels + rows.to(tl.int64))[:, None] * C + cols[None, :]
        values = tl.load(x + where, mask=mask, other=0.0).to(tl.float32)
        values = tl.where(mask, values + tl.load(shift + cols).to(tl.float32)[None, :], 0.0)
        total += values
        squares += values * values
    of_groups = tl.sum(tl.reshape(tl.sum(total, axis=0), (GROUPS, C // GROUPS)), axis=1)
    of_squares = tl.sum(tl.reshape(tl.sum(squares, axis=0), (GROUPS, C // GROUPS)), axis=1)
    groups = tl.arange(0, GROUPS)
    start = sums + (item * tl.num_programs(0) + block) * (2 * GROUPS)
    tl.store(start + groups, of_groups)
    tl.store(start + GROUPS + groups, of_squares)


@triton.jit(do_not_specialize=["blocks", "count", "width"])
def _group_affine(
    sums,
    weight,
    bias,
    shift,
    factor,
    offset,
    blocks,
    count,
    width,
    EPS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    group, item = tl.program_id(0), tl.program_id(1).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    # In float64, since the mean of squares and the square of the mean cancel.
    total = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for at in range(0, blocks, BLOCK):
        where = sums + (item * blocks + at + lanes) * (2 * GROUPS) + group
        total += tl.load(where, mask=at + lanes < blocks, other=0.0).to(tl.float64)
        squares += tl.load(where + GROUPS, mask=at + lanes < blocks, other=0.0).to(tl.float64)
    mean = tl.sum(total, axis=0) / count
    variance = tl.sum(squares, axis=0) / count - mean * mean
    root = tl.rsqrt(tl.maximum(variance, 0.0).to(tl.float32) + EPS)
    start = item * tl.num_programs(0) * width
    for at in range(0, width, BLOCK):
        cols = group * width + at + lanes
        mask = at + lanes < width
        slope = root * tl.load(weight + cols, mask=mask, other=0.0).to(tl.float32)
        centre = mean.to(tl.float32) - tl.load(shift + cols, mask=mask, other=0.0).to(tl.float32)
        tl.store(factor + start + cols, slope, mask=mask)
        intercept = tl.load(bias + cols, mask=mask, other=0.0).to(tl.float32) - centre * slope
        tl.store(offset + start + cols, intercept, mask=mask)


@triton.jit(do_not_specialize=["pixels"])
def _group_apply(x, out, factor, offset, pixels, C: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr):
    block, item = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows = block * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, C)
    mask = (rows < pixels)[:, None]
    where = (item * pixels + rows.to(tl.int64))[:, None] * C + cols[None, :]
    values = tl.load(x + where, mask=mask, other=0.0).to(tl.float32)
    values = values * tl.load(factor + item * C + cols)[None, :] + tl.load(offset + item * C + cols)[None, :]
    if SILU:
        values = values * tl.sigmoid(values)
    tl.store(out + where, values.to(out.dtype.element_ty), mask=mask)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor,
    eps: float = 1e-6,
    *,
    silu: bool = False,
) -> Tensor:
    """Return GroupNorm of x + shift, then SiLU if `silu`: (B, C, H, W) -> (B, C, H, W), both channels-last.

    weight, bias, shift: (C,). `shift` is the bias of the convolution that computed x.
    """
    batch, channels, height, width = x.shape
    pixels = height * width
    block = max(4096 // channels, 1)
    share = triton.cdiv(triton.cdiv(pixels, _PROGRAMS), block) * block
    blocks = triton.cdiv(pixels, share)
    sums = torch.empty(batch, blocks, 2, groups, dtype=torch.float32, device=x.device)
    factor, offset = torch.empty(2, batch, channels, dtype=torch.float32, device=x.device)
    _group_sums[blocks, batch](x, shift, sums, pixels, share, C=channels, GROUPS=groups, BLOCK=block, num_warps=8)
    width = channels // groups
    affine = sums, weight, bias, shift, factor, offset, blocks, float(pixels * width), width
    _group_affine[groups, batch](*affine, EPS=eps, GROUPS=groups, BLOCK=256, num_warps=4)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    grid = (triton.cdiv(pixels, 2 * block), batch)
    _group_apply[grid](x, out, factor, offset, pixels, C=channels, BLOCK=2 * block, SILU=silu, num_warps=4)
    return out


@triton.jit
def _add(x, bias, y, size, C: tl.constexpr, BLOCK: tl.constexpr, BOTH: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) + tl.load(bias + at % C).to(tl.float32)
    if BOTH:
        values += tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(x + at, values.to(x.dtype.element_ty), mask=mask)


def add_(x: Tensor, bias: Tensor, y: Tensor | None = None) -> Tensor:
    """Compute x += bias + y, in place where x is channels-last: x, y (B, C, H, W), bias (C,)."""
    x = x.contiguous(memory_format=torch.channels_last)
    other = x if y is None else y.contiguous(memory_format=torch.channels_last)
    block = 2048
    grid = (triton.cdiv(x.numel(), block),)
    _add[grid](x, bias, other, x.numel(), C=x.shape[1], BLOCK=block, BOTH=y is not None, num_warps=8)
    return x


@triton.jit(do_not_specialize=["pixels", "width"])
def _upsample(x, out, pixels, width, C: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cols = tl.arange(0, C)[None, :]
    mask = (rows < pixels)[:, None]
    values = tl.load(x + rows.to(tl.int64)[:, None] * C + cols, mask=mask)
    corner = (rows // width).to(tl.int64) * (4 * width) + rows % width * 2
    for pixel in tl.static_range(4):
        target = corner + pixel // 2 * (2 * width) + pixel % 2
        tl.store(out + target[:, None] * C + cols, values, mask=mask)


def upsample(x: Tensor) -> Tensor:
    """Repeat each pixel twice in both directions: (B, C, H, W) -> (B, C, 2 H, 2 W), both channels-last."""
    x = x.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    shape = batch, channels, 2 * height, 2 * width
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels, block = batch * height * width, max(4096 // channels, 1)
    _upsample[(triton.cdiv(pixels, block),)](x, out, pixels, width, C=channels, BLOCK=block, num_warps=4)
    return out


@triton.jit(do_not_specialize=["length"])
def _softmax(scores, out, length, scale, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    scores += row * length
    out += row * length
    peaks = tl.full((BLOCK,), -1e30, tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    for at in range(0, length, BLOCK):
        cols = at + tl.arange(0, BLOCK)
        values = tl.load(scores + cols, mask=cols < length, other=-1e30) * scale
        higher = tl.maximum(peaks, values)
        sums = tl.where(cols < length, sums * tl.exp(peaks - higher) + tl.exp(values - higher), sums)
        peaks = higher
    peak = tl.max(peaks, axis=0)
    total = tl.sum(sums * tl.exp(peaks - peak), axis=0)
    for at in range(0, length, BLOCK):
        cols = at + tl.arange(0, BLOCK)
        values = tl.load(scores + cols, mask=cols < length, other=-1e30) * scale
        tl.store(out + cols, (tl.exp(values - peak) / total).to(out.dtype.element_ty), mask=cols < length)


def softmax(scores: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return the softmax of each row of scores (R, S) times `scale`, computed in float32, as `dtype`."""
    out = torch.empty_like(scores, dtype=dtype)
    _softmax[(len(scores),)](scores, out, scores.shape[1], scale, BLOCK=4096, num_warps=8)
    return out
