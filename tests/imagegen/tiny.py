"""Tiny models with fixed random weights in diffusers' layout: a FLUX and an SDXL that generate noise."""

import json
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = [*string.ascii_lowercase, *string.digits, "red", "blue", "green", "apple", "cat", "lake", "dragon"]


def write(folder: Path, *, native_size: int | None = None) -> Path:
    """Write a FLUX into `folder` and return it; with `native_size` it generates only that size."""
    torch.manual_seed(0)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae(16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip(CLIPTextModel, layers=1),
        tokenizer=tokenizer(16),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=128, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)),
        tokenizer_2=tokenizer(32),
        transformer=FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
    )
    with torch.no_grad():  # latents of unit variance without noise, as from a trained encoder
        pipeline.vae.encoder.conv_out.weight[:16] *= 8
        pipeline.vae.encoder.conv_out.weight[16:] = 0
        pipeline.vae.encoder.conv_out.bias[16:] = -30
    pipeline.save_pretrained(folder)
    if native_size is not None:
        about = {"name": "tiny-random", "native_size": native_size}
        (folder / "imagegen.json").write_text(json.dumps(about))
    return folder


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


def vae(channels: int, **config: object) -> AutoencoderKL:
    """Return an autoencoder, 8x down, of a few thousand weights."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=2,
        mid_block_add_attention=False,
        **config,
    )


def clip(kind: type, *, layers: int) -> Any:
    """Return a CLIP text encoder of class `kind`."""
    return kind(
        CLIPTextConfig(
            vocab_size=128,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=16,
            projection_dim=16,
            bos_token_id=2,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words and single letters; anything else is one unknown token."""
    vocab = {word: i for i, word in enumerate(["<pad>", "</s>", "<s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=length,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
    )
