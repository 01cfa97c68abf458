"""The autoencoder, which maps images to latents: 8x downsampling, 16 channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL

from training.checkpoints import load_state, read_progress
from training.distributed import autocast

if TYPE_CHECKING:
    from torch import Tensor

    from training.config import Config

NAME = "autoencoder"


def build(config: Config, scaling: float = 1.0, shift: float = 0.0) -> AutoencoderKL:
    """Return an untrained autoencoder; `scaling` and `shift` standardize its latents, as in diffusers."""
    levels = len(config.vae_widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.vae_widths,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=config.vae_groups,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=config.size,
        scaling_factor=scaling,
        shift_factor=shift,
        force_upcast=False,
    )


def load(config: Config, device: torch.device) -> AutoencoderKL:
    """Load the trained autoencoder from the run's folder."""
    progress = read_progress(config.run, NAME)
    vae = build(config, progress["scaling"], progress["shift"]).to(device)
    load_state(vae, config.run / f"{NAME}.safetensors")
    return vae.eval()


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode images in [-1, 1] to the means of their latents, not standardized."""
    with autocast(images.device):
        moments: Tensor = vae.encoder(images.to(memory_format=torch.channels_last))
    return moments.float().chunk(2, 1)[0]


def standardized_latents(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode images in [-1, 1] to latents with mean 0 and standard deviation 1."""
    latents: Tensor = (encode(vae, images) - vae.config.shift_factor) * vae.config.scaling_factor
    return latents


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode standardized latents (batch, 16, height, width) to images in [0, 1]."""
    raw = latents.float() / vae.config.scaling_factor + vae.config.shift_factor
    with autocast(latents.device):
        decoded: Tensor = vae.decoder(raw)
    return (decoded.float() / 2 + 0.5).clamp(0, 1)
