"""Which attention kernel runs: FlashAttention-3 where its package is, else cuDNN's through PyTorch.

Both read q, k and v as strided views of one (B, S, 3, H, Dh) buffer and write a contiguous (B, S, H, Dh).
"""

from __future__ import annotations

import logging
import re
from functools import cache
from importlib import import_module, util
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_HOPPER = 9
_SMALLEST_HEAD = 64  # that FlashAttention-3 has a kernel for


@cache
def flash_attention_3() -> Any | None:
    """The forward operator of the package `fa3-fwd`, or None without it, with another PyTorch's, or off Hopper."""
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == _HOPPER
    if not hopper or util.find_spec("fa3_fwd") is None:
        return None
    try:
        import_module("fa3_fwd._C")  # registers the operator
    except (ImportError, OSError):
        log.warning("fa3-fwd does not fit this PyTorch: attention runs without it", exc_info=True)
        return None
    return torch.ops.fa3_fwd.fwd


def _flash(dim: int) -> Any | None:
    return flash_attention_3() if dim >= _SMALLEST_HEAD else None


def attention(qkv: Tensor, out: Tensor | None = None) -> Tensor:
    """Softmax attention over all rows: (B, S, 3, H, Dh) -> (B, S, H * Dh) in bf16, into `out` where given.

    The rows of `out` may lie apart. A buffer in e4m3 needs FlashAttention-3 (arXiv 2407.08608).
    """
    q, k, v = qkv.unbind(2)
    flash = _flash(q.shape[-1])
    if flash is not None:
        into = None if out is None else out.unflatten(2, q.shape[2:])
        # What else lies between v and the softmax's scale is for caches, pages, variable lengths and fp8 scales.
        unused = [None] * 16
        options = (False, -1, -1, 0, 0.0, True, None, 1, None, 0)
        attended: Tensor = flash(q, k, v, None, None, None, into, *unused, q.shape[-1] ** -0.5, *options)[0]
        return attended.flatten(2) if out is None else out
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with sdpa_kernel(order, set_priority=True):
        attended = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    attended = attended.transpose(1, 2).flatten(2)
    return attended if out is None else out.copy_(attended)


def running_kernel(heads: int, dim: int, dtype: torch.dtype) -> str:
    """Return the name of the GPU kernel that `attention` really launches here; of PyTorch's choice, by the profiler."""
    if _flash(dim) is not None:
        return "FlashAttention-3"
    qkv = torch.randn(1, 256, 3, heads, dim, device="cuda", dtype=torch.bfloat16).to(dtype)
    attention(qkv)
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        attention(qkv)
        torch.cuda.synchronize()
    longest = max(trace.events(), key=lambda event: event.device_time_total, default=None)
    return _readable(longest.name) if longest is not None else "unknown"


def _readable(kernel: str) -> str:
    """Return the telling part of a kernel's name, which may go on for a page of template arguments."""
    telling = re.search(r"[\w:]*(attn|attention|sdpa|fmha|flash_fwd)\w*", kernel, re.IGNORECASE)
    return telling[0] if telling else kernel[:80]
