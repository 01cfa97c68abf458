"""The VAE without a compiler: channels-last convolutions, GroupNorm and SiLU in one kernel of ours.

cuDNN's tensor-core convolutions want channels last, where PyTorch's GroupNorm is slow: with ours in its place the
whole decoder stays in one layout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imagegen.flux.kernels import group_norm_silu


class GroupNormSiLU(nn.Module):
    """A `GroupNorm` for channels-last images, with the SiLU that follows it where `silu`."""

    def __init__(self, norm: nn.GroupNorm, *, silu: bool) -> None:
        super().__init__()
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        x = x.contiguous(memory_format=torch.channels_last)
        return group_norm_silu(x, self.groups, self.weight, self.bias, self.eps, silu=self.silu)


def channels_last(vae: Any) -> None:
    """Put diffusers' `AutoencoderKL` into channels-last form, in place; what it computes stays the same.

    One whose widths are no powers of two, as FLUX.1's are, is left as it is: the kernel could not hold its groups.
    """
    if any(width & (width - 1) for width in vae.config.block_out_channels):
        return
    vae.to(memory_format=torch.channels_last)
    for part in (vae.encoder, vae.decoder):
        for block in part.modules():
            if type(block).__name__ == "ResnetBlock2D":
                block.norm1 = GroupNormSiLU(block.norm1, silu=True)
                block.norm2 = GroupNormSiLU(block.norm2, silu=True)
                block.nonlinearity = nn.Identity()
        part.conv_norm_out = GroupNormSiLU(part.conv_norm_out, silu=True)
        part.conv_act = nn.Identity()
