"""Tiny models with fixed random weights, as pipeline folders: a FLUX (the stand-in), and an SDXL."""

from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from imagegen.standin import clip, tokenizer, vae, write

__all__ = ["write", "write_sdxl"]


def write_sdxl(folder: Path) -> Path:
    """Write an SDXL, made for 128x128, into `folder` and return it."""
    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading"),
        vae=vae(4),
        text_encoder=clip(CLIPTextModel, layers=2),
        tokenizer=tokenizer(16),
        text_encoder_2=clip(CLIPTextModelWithProjection, layers=2),
        tokenizer_2=tokenizer(16),
        unet=UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=2,
            norm_num_groups=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
            cross_attention_dim=32,
        ),
    ).save_pretrained(folder)
    return folder
