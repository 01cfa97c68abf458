"""Attention by FlashAttention-3 (arXiv 2407.08608) where its package is installed, else by cuDNN through PyTorch.

Both read q, k and v as strided views of one (B, S, 3, H, Dh) buffer, so no kernel has to copy them.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from importlib import import_module, util
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from imagegen.flux.cublas import HOPPER

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Operator = Callable[..., list[Tensor]]

log = logging.getLogger(__name__)

_MIN_HEAD_DIM = 64  # FlashAttention-3 has no kernel for smaller heads


@cache
def flash_attention_3() -> Operator | None:
    """Return the forward operator of the package `fa3-fwd`.

    Returns None if the GPU is not a Hopper, or if the package is missing or built for another PyTorch.
    """
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER
    if not hopper or util.find_spec("fa3_fwd") is None:
        return None
    try:
        import_module("fa3_fwd._C")  # registers the operator
    except (ImportError, OSError):
        log.warning("The package fa3-fwd was built for another PyTorch: attention runs without it", exc_info=True)
        return None
    operator: Operator = torch.ops.fa3_fwd.fwd
    return operator


def _flash(dim: int) -> Operator | None:
    return flash_attention_3() if dim >= _MIN_HEAD_DIM else None


def attention(qkv: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute softmax attention over all rows: qkv (B, S, 3, H, Dh) -> (B, S, H * Dh) in bf16.

    `out` may be a slice of a wider buffer's columns. qkv may be in e4m3, which needs FlashAttention-3.
    """
    q, k, v = qkv.unbind(2)
    flash = _flash(q.shape[-1])
    if flash is not None:
        into = None if out is None else out.unflatten(2, q.shape[2:])
        # The arguments between v and the softmax scale are for caches, pages, variable lengths and fp8 scales.
        unused = [None] * 16
        # causal, window to the left and to the right, chunk, softcap, rotary interleaved, scheduler metadata, splits,
        # pack GQA, SM margin: full attention, and otherwise the defaults of the package's Python function.
        options = (False, -1, -1, 0, 0.0, True, None, 1, None, 0)
        attended = flash(q, k, v, None, None, None, into, *unused, q.shape[-1] ** -0.5, *options)[0]
        return attended.flatten(2) if out is None else out
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel(order, set_priority=True):
        attended = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    attended = attended.transpose(1, 2).flatten(2)
    return attended if out is None else out.copy_(attended)


def running_kernel(heads: int, dim: int, dtype: torch.dtype) -> str:
    """Return the name of the GPU kernel that `attention` launches; PyTorch's choice is read from the profiler."""
    if _flash(dim) is not None:
        return "FlashAttention-3"
    qkv = torch.randn(1, 256, 3, heads, dim, device="cuda", dtype=torch.bfloat16).to(dtype)
    attention(qkv)
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        attention(qkv)
        torch.cuda.synchronize()
    longest = max(trace.events(), key=lambda event: event.device_time_total, default=None)
    return _short_name(longest.name) if longest is not None else "unknown"


def _short_name(kernel: str) -> str:
    """Return a kernel's name without its template arguments, which can fill a page."""
    match = re.search(r"[\w:]*(attn|attention|sdpa|fmha|flash_fwd)\w*", kernel, re.IGNORECASE)
    return match[0] if match else kernel[:80]
