"""Stable Diffusion 1 to 3."""

import io
import json
from pathlib import Path
from typing import Any

from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from sentencepiece import SentencePieceTrainer
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPTextModelWithProjection

from tests.imagegen import tiny
from tests.imagegen.families import parts
from tests.imagegen.families.family import Family, edit_index

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def unet(side: int = 128, **config: Any) -> UNet2DConditionModel:
    """Return a U-Net made for pictures of `side` pixels."""
    return UNet2DConditionModel(
        **{
            "sample_size": side // 8,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            "cross_attention_dim": parts.WIDTH,
            **config,
        }
    )


def sd(kind: type = StableDiffusionPipeline, *, scheduler: Any = None, checked: bool = False, **config: Any) -> Any:
    """Return a Stable Diffusion 1 or 2; with `checked` it has the safety checker of the hub's Stable Diffusion 1.5."""
    return kind(
        vae=parts.vae(),
        text_encoder=parts.clip(),
        tokenizer=parts.tokenizer(),
        unet=unet(**config),
        scheduler=scheduler or PNDMScheduler(skip_prk_steps=True, **BETAS),
        safety_checker=safety_checker() if checked else None,
        feature_extractor=CLIPImageProcessorPil() if checked else None,
        requires_safety_checker=checked,
    )


def safety_checker() -> StableDiffusionSafetyChecker:
    """Return a safety checker that finds nothing."""
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return StableDiffusionSafetyChecker(CLIPConfig(vision_config={**vision, "patch_size": 32}, projection_dim=16))


def sdxl(kind: type = StableDiffusionXLPipeline, *, scheduler: Any = None, channels: int = 4) -> Any:
    """Return an SDXL of class `kind`, whose U-Net reads `channels` channels."""
    return kind(
        scheduler=scheduler or EulerDiscreteScheduler(timestep_spacing="leading", **BETAS),
        vae=parts.vae(),
        text_encoder=parts.clip(),
        tokenizer=parts.tokenizer(),
        text_encoder_2=parts.clip(CLIPTextModelWithProjection),
        tokenizer_2=parts.tokenizer(),
        unet=_sdxl_unet(width=2 * parts.WIDTH, ids=6, in_channels=channels),
    )


def sdxl_refiner() -> StableDiffusionXLImg2ImgPipeline:
    """Return an SDXL refiner: it has only the second text encoder, and is told an aesthetic score."""
    return StableDiffusionXLImg2ImgPipeline(
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **BETAS),
        vae=parts.vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=parts.clip(CLIPTextModelWithProjection),
        tokenizer_2=parts.tokenizer(),
        unet=_sdxl_unet(width=parts.WIDTH, ids=5),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    )


def _sdxl_unet(width: int, ids: int, **config: Any) -> UNet2DConditionModel:
    return unet(
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=parts.WIDTH + ids * 8,
        cross_attention_dim=width,
        **config,
    )


def kolors() -> Any:
    """Return a Kolors: an SDXL with one text encoder, whose class is diffusers' own like its tokenizer's."""
    from diffusers import KolorsPipeline  # not above: the module warns when it is imported
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

    encoder = ChatGLMModel(
        ChatGLMConfig(
            num_layers=2,
            padded_vocab_size=128,
            hidden_size=parts.WIDTH,
            ffn_hidden_size=32,
            kv_channels=8,
            num_attention_heads=2,
            multi_query_attention=True,
            seq_length=256,
            add_qkv_bias=True,
            original_rope=True,
        )
    )
    for weight in encoder.parameters():
        nn.init.normal_(weight, std=0.3)  # the class leaves them uninitialised
    return KolorsPipeline(
        vae=parts.vae(),
        text_encoder=encoder,
        tokenizer=None,
        unet=_sdxl_unet(width=32, ids=6, encoder_hid_dim=parts.WIDTH, encoder_hid_dim_type="text_proj"),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **BETAS),
    )


def _add_sentencepiece(folder: Path) -> None:
    """Add Kolors' tokenizer, whose only form is a SentencePiece model."""
    (folder / "tokenizer").mkdir()
    model = io.BytesIO()
    sentences = iter([" ".join(tiny.WORDS)])
    SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, vocab_size=64, hard_vocab_limit=False, minloglevel=2
    )
    (folder / "tokenizer" / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer"}))
    edit_index(folder, tokenizer=["kolors", "ChatGLMTokenizer"])


def sd3() -> StableDiffusion3Pipeline:
    """Return a Stable Diffusion 3.5."""
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=parts.vae(16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=parts.clip(CLIPTextModelWithProjection),
        tokenizer=parts.tokenizer(),
        text_encoder_2=parts.clip(CLIPTextModelWithProjection),
        tokenizer_2=parts.tokenizer(),
        text_encoder_3=parts.t5(2 * parts.WIDTH),
        tokenizer_3=parts.tokenizer(512),
        transformer=SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=2 * parts.WIDTH,
            pooled_projection_dim=2 * parts.WIDTH,
            pos_embed_max_size=96,
            qk_norm="rms_norm",
        ),
    )


_SD = {"guidance": 7.5, "tokens": None}
_SD_1 = {**_SD, "steps": 30}
_SDXL = {**_SD, "guidance": 5.0}
_SDXL_BASE = {**_SDXL, "steps": 30}

FAMILIES = [
    Family("stable-diffusion-v1-5", lambda: sd(checked=True), **_SD_1),
    Family("stable-diffusion-v1-5-unchecked", sd, **_SD_1),
    Family("stable-diffusion-v1-5-bin", sd, safetensors=False, **_SD_1),
    Family(
        "stable-diffusion-2-1",
        lambda: sd(
            side=192,
            use_linear_projection=True,
            scheduler=DDIMScheduler(prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False, **BETAS),
        ),
        **_SD_1,
    ),
    Family(
        "stable-diffusion-inpainting",
        lambda: sd(StableDiffusionInpaintPipeline, in_channels=9),
        tasks=("inpaint",),
        **_SD_1,
    ),
    Family(
        "instruct-pix2pix",
        lambda: sd(StableDiffusionInstructPix2PixPipeline, in_channels=8),
        tasks=("edit",),
        steps=100,
        **_SD,
    ),
    Family(
        "LCM_Dreamshaper_v7",
        lambda: sd(LatentConsistencyModelPipeline, scheduler=LCMScheduler(**BETAS), time_cond_proj_dim=8),
        tasks=("text2image", "img2img"),
        steps=4,
        negative=False,
        **{**_SD, "guidance": 8.5},
    ),
    Family("stable-diffusion-xl-base-1.0", sdxl, **_SDXL_BASE),
    Family(
        "sdxl-turbo",
        lambda: sdxl(scheduler=EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **BETAS)),
        steps=4,
        **{**_SDXL, "guidance": 0.0},
    ),
    Family(
        "stable-diffusion-xl-1.0-inpainting-0.1",
        lambda: sdxl(StableDiffusionXLInpaintPipeline, channels=9),
        tasks=("inpaint",),
        **{**_SDXL_BASE, "guidance": 7.5},
    ),
    Family("stable-diffusion-xl-refiner-1.0", sdxl_refiner, tasks=("img2img", "inpaint"), **_SDXL),
    Family(
        "Kolors",
        kolors,
        tasks=("text2image", "img2img"),
        finish=_add_sentencepiece,
        **{**_SDXL, "tokens": 256},
    ),
    Family("stable-diffusion-3.5-large", sd3, steps=28, guidance=4.5, tokens=256),
]
