"""The VAE in channels-last form computes what diffusers' does."""

import os

import pytest
import torch
from diffusers import AutoencoderKL

from imagegen.flux.vae import channels_last

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


@pytest.mark.parametrize("widths", [(32, 64, 64), (32, 96, 96)])
@torch.inference_mode()
@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
def test_same_images_and_latents(widths):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae = vae.to(DEVICE).eval()
    image, latents = torch.randn(2, 3, 40, 24, device=DEVICE), torch.randn(2, 16, 10, 6, device=DEVICE)
    expected = vae.encode(image).latent_dist.mean, vae.decode(latents).sample
    channels_last(vae)
    ours = vae.encode(image).latent_dist.mean, vae.decode(latents).sample
    for out, reference in zip(ours, expected, strict=True):
        assert torch.linalg.norm(out - reference) < 1e-3 * torch.linalg.norm(reference)
