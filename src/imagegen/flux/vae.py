"""FLUX's VAE with channels-last convolutions, and Triton kernels for everything between them.

cuDNN's tensor-core convolutions need channels-last images. PyTorch's GroupNorm, nearest-neighbour upsampling and bias
addition are slow in that layout, so `kernels.vae` replaces them. The kernel that reads a convolution's result next
adds its bias: a GroupNorm, or the sum at a residual block's end. The attention of the middle block has one head of 512
values, more than fused tensor-core kernels support. It runs as two matmuls and a softmax on a slice of rows at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imagegen.flux.kernels.vae import add_, group_norm, softmax, upsample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers import AutoencoderKL
    from diffusers.models.attention_processor import Attention as DiffusersAttention
    from diffusers.models.autoencoders.vae import Decoder
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

_MAX_SCORES = 2**25  # attention scores in float32 at a time: 128 MB


def to_channels_last(vae: AutoencoderKL) -> DecoderWarmup | None:
    """Replace the layers of diffusers' `AutoencoderKL` by channels-last ones, in place; its results stay the same.

    Returns None and changes nothing if a width is not a power of two, which the kernels need. FLUX.1's all are.
    """
    if any(width & (width - 1) for width in vae.config.block_out_channels):
        return None
    vae.to(memory_format=torch.channels_last)
    replacements = {"ResnetBlock2D": ResnetBlock, "Upsample2D": Upsample, "Attention": Attention}
    for part in (vae.encoder, vae.decoder):
        for parent in [*part.modules()]:
            for name, child in [*parent.named_children()]:
                if kind := replacements.get(type(child).__name__):
                    setattr(parent, name, kind(child))
        part.conv_norm_out = GroupNorm(part.conv_norm_out, silu=True)
        part.conv_act = nn.Identity()
    return DecoderWarmup(vae.decoder)


class DecoderWarmup:
    """A warm-up of the decoder for a new image size, in parts that run while the CPU waits for denoising steps.

    cuDNN takes 4 ms to plan each kind of convolution. cuBLAS takes 20 ms to load the kernels of the attention.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._sizes: set[tuple[int, int]] = set()

    def __call__(self, width: int, height: int) -> Iterator[None]:
        """Run each kind of convolution, and the attention, for an image of width x height pixels: one per iteration.

        The inputs are zeros. For a size that was prepared before, the iterator is empty.
        """
        if (width, height) in self._sizes:
            return
        self._sizes.add((width, height))
        first: nn.Conv2d = self._decoder.conv_in

        def zeros(channels: int, scale: float) -> Tensor:
            rows = first.weight.new_zeros(1, int(height * scale), int(width * scale), channels)
            return rows.permute(0, 3, 1, 2)

        kinds = {(c.in_channels, c.out_channels, c.kernel_size, scale): c for c, scale in self._convolutions()}
        for (channels, _, _, scale), conv in kinds.items():
            _without_bias(conv, zeros(channels, scale))
            yield
        for attention in filter(None, self._decoder.mid_block.attentions):
            attention(zeros(first.out_channels, 0.5 ** (len(self._decoder.up_blocks) - 1)))
            yield

    def _convolutions(self) -> Iterator[tuple[nn.Conv2d, float]]:
        """Yield every convolution with the scale of its input: its height as a fraction of the image's."""
        scale = 0.5 ** (len(self._decoder.up_blocks) - 1)
        yield self._decoder.conv_in, scale
        for block in (self._decoder.mid_block, *self._decoder.up_blocks):
            for resnet in block.resnets:
                yield from ((conv, scale) for conv in (resnet.conv1, resnet.conv2, resnet.shortcut) if conv is not None)
            for upsampler in getattr(block, "upsamplers", None) or ():
                scale *= 2
                yield upsampler.conv, scale
        yield self._decoder.conv_out, scale


class ResnetBlock(nn.Module):
    """A residual block: diffusers' `ResnetBlock2D` without a time embedding."""

    bias: Tensor

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(block.norm1, silu=True), GroupNorm(block.norm2, silu=True)
        self.conv1, self.conv2, self.shortcut = block.conv1, block.conv2, block.conv_shortcut
        bias = block.conv2.bias.detach().float()
        self.register_buffer("bias", bias if self.shortcut is None else bias + self.shortcut.bias.detach())

    def forward(self, x: Tensor, temb: None = None) -> Tensor:
        """Return (B, C', H, W) for x (B, C, H, W); `temb` is ignored."""
        hidden = _without_bias(self.conv1, self.norm1(x))
        hidden = _without_bias(self.conv2, self.norm2(hidden, self.conv1.bias))
        return add_(hidden, self.bias, x if self.shortcut is None else _without_bias(self.shortcut, x))


class Upsample(nn.Module):
    """Twofold upsampling, then a convolution: diffusers' `Upsample2D`."""

    def __init__(self, block: Upsample2D) -> None:
        super().__init__()
        self.conv = block.conv

    def forward(self, x: Tensor, output_size: None = None) -> Tensor:
        """Return (B, C, 2 H, 2 W) for x (B, C, H, W); `output_size` is ignored."""
        return add_(_without_bias(self.conv, upsample(x)), self.conv.bias)


class Attention(nn.Module):
    """One-head attention over all pixels, with GroupNorm and residual: diffusers' `Attention`."""

    def __init__(self, block: DiffusersAttention) -> None:
        super().__init__()
        self.norm = GroupNorm(block.group_norm, silu=False)
        self.to_q, self.to_k, self.to_v, self.to_out = block.to_q, block.to_k, block.to_v, block.to_out[0]

    def forward(self, x: Tensor, temb: None = None) -> Tensor:
        """Return (B, C, H, W) for x (B, C, H, W); `temb` is ignored."""
        rows = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # a view: (B, H * W, C)
        parts = zip(self.to_q(rows), self.to_k(rows), self.to_v(rows), strict=True)
        out = self.to_out(torch.stack([_one_head_attention(*item) for item in parts]))
        return x + out.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # type: ignore[no-any-return]  # nn.Module's call


class GroupNorm(nn.Module):
    """GroupNorm for channels-last images, followed by SiLU if `silu`."""

    unshifted: Tensor

    def __init__(self, norm: nn.GroupNorm, *, silu: bool) -> None:
        super().__init__()
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("unshifted", torch.zeros_like(norm.bias))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return (B, C, H, W) for x (B, C, H, W); `shift` (C,) is added to x first."""
        x = x.contiguous(memory_format=torch.channels_last)
        shift = self.unshifted if shift is None else shift
        return group_norm(x, self.groups, self.weight, self.bias, shift, self.eps, silu=self.silu)


def _without_bias(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding)


def _one_head_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute softmax attention of one head: (S, C) each -> (S, C)."""
    out = torch.empty_like(q)
    rows = max(_MAX_SCORES // len(k), 1)
    for part, into in zip(q.split(rows), out.split(rows), strict=True):
        if part.is_cuda and part.dtype is not torch.float32:
            scores = torch.mm(part, k.t(), out_dtype=torch.float32)
        else:
            scores = part.float() @ k.t().float()
        torch.mm(softmax(scores, q.shape[1] ** -0.5, q.dtype), v, out=into)
    return out
