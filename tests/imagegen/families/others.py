"""Pipelines of other makers."""

from typing import Any

import pytest
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    BriaPipeline,
    BriaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)
from diffusers.pipelines.hunyuandit import pipeline_hunyuandit
from transformers import (
    CLIPTextModelWithProjection,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from tests.imagegen.families import parts
from tests.imagegen.families.family import Family


def sana() -> SanaPipeline:
    """Return a Sana."""
    return SanaPipeline(
        tokenizer=parts.tokenizer(300),
        text_encoder=parts.gemma2(),
        vae=parts.vae_dc(),
        transformer=_sana_transformer(),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, solver_order=2
        ),
    )


def sana_sprint() -> SanaSprintPipeline:
    """Return a Sana-Sprint, which is told its guidance instead of computing two predictions."""
    return SanaSprintPipeline(
        tokenizer=parts.tokenizer(300),
        text_encoder=parts.gemma2(),
        vae=parts.vae_dc(),
        transformer=_sana_transformer(guidance_embeds=True, qk_norm="rms_norm_across_heads"),
        scheduler=SCMScheduler(),
    )


def _sana_transformer(**config: object) -> SanaTransformer2DModel:
    return SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=parts.WIDTH,
        sample_size=32,
        **config,
    )


def pixart_sigma() -> PixArtSigmaPipeline:
    """Return a PixArt-Sigma."""
    return PixArtSigmaPipeline(
        tokenizer=parts.tokenizer(300),
        text_encoder=parts.t5(),
        vae=parts.vae(),
        transformer=PixArtTransformer2DModel(
            sample_size=32,  # for which the pipeline has a table of sizes, as for the real model's 128
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            use_additional_conditions=False,
            caption_channels=parts.WIDTH,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )


def hidream() -> HiDreamImagePipeline:
    """Return a HiDream, which has four text encoders and always draws about a megapixel."""
    return HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=parts.vae_flux(),
        text_encoder=parts.clip(CLIPTextModelWithProjection, length=248),
        tokenizer=parts.tokenizer(248),
        text_encoder_2=parts.clip(CLIPTextModelWithProjection, length=248),
        tokenizer_2=parts.tokenizer(248),
        text_encoder_3=parts.t5(),
        tokenizer_3=parts.tokenizer(512),
        text_encoder_4=parts.llama(LlamaForCausalLM, LlamaConfig),
        tokenizer_4=parts.tokenizer(1024),
        transformer=HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=[parts.WIDTH, parts.WIDTH],
            text_emb_dim=2 * parts.WIDTH,
            axes_dims_rope=(4, 2, 2),
            llama_layers=[0, 1],
        ),
    )


def _shrink_hidream(pipeline: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pipeline, "default_sample_size", 32)


def hunyuan_dit() -> HunyuanDiTPipeline:
    """Return a HunyuanDiT, which draws only the sizes that it was trained for."""
    return HunyuanDiTPipeline(
        vae=parts.vae(),
        text_encoder=parts.bert(),
        tokenizer=parts.tokenizer(),
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.tokenizer(256),
        transformer=HunyuanDiT2DModel(
            sample_size=128,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            hidden_size=16,
            cross_attention_dim=parts.WIDTH,
            cross_attention_dim_t5=parts.WIDTH,
            pooled_projection_dim=16,
        ),
        scheduler=DDPMScheduler(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _shrink_hunyuan_dit(pipeline: Any, patch: pytest.MonkeyPatch) -> None:
    shapes = [[(width // 4, height // 4) for width, height in row] for row in pipeline_hunyuandit.STANDARD_SHAPE]
    patch.setattr(pipeline_hunyuandit, "STANDARD_SHAPE", shapes)
    patch.setattr(pipeline_hunyuandit, "SUPPORTED_SHAPE", [shape for row in shapes for shape in row])


def lumina2() -> Lumina2Pipeline:
    """Return a Lumina-Image 2."""
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            in_channels=16,
            hidden_size=16,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            cap_feat_dim=parts.WIDTH,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=parts.vae_flux(),
        text_encoder=parts.gemma2(),
        tokenizer=parts.tokenizer(8192),
    )


def cogview4() -> CogView4Pipeline:
    """Return a CogView4."""
    return CogView4Pipeline(
        tokenizer=parts.tokenizer(1024),
        text_encoder=parts.llama(GlmModel, GlmConfig),
        vae=parts.vae(16),
        transformer=parts.amplify(
            CogView4Transformer2DModel(
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                text_embed_dim=parts.WIDTH,
                time_embed_dim=8,
                condition_dim=4,
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )


def aura_flow() -> AuraFlowPipeline:
    """Return an AuraFlow."""
    return AuraFlowPipeline(
        tokenizer=parts.tokenizer(512),
        text_encoder=parts.umt5(),
        vae=parts.vae(),
        transformer=parts.amplify(
            AuraFlowTransformer2DModel(
                sample_size=128,
                num_mmdit_layers=1,
                num_single_dit_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=parts.WIDTH,
                caption_projection_dim=16,
                pos_embed_max_size=4096,
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


def bria() -> BriaPipeline:
    """Return a Bria 3.2."""
    return BriaPipeline(
        transformer=BriaTransformer2DModel(in_channels=16, joint_attention_dim=parts.WIDTH, **_BRIA),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=parts.vae(),
        text_encoder=parts.t5(),
        tokenizer=parts.tokenizer(512),
    )


def bria_fibo() -> BriaFiboPipeline:
    """Return a Bria FIBO. Its pipeline uses token 128000, so that the text encoder must have as many."""
    width = 4
    return BriaFiboPipeline(
        transformer=BriaFiboTransformer2DModel(
            in_channels=16, joint_attention_dim=2 * width, text_encoder_dim=width, **_BRIA
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae_wan(patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16),
        text_encoder=parts.llama(
            SmolLM3ForCausalLM,
            SmolLM3Config,
            vocab_size=128001,
            hidden_size=width,
            num_attention_heads=1,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        ),
        tokenizer=parts.tokenizer(3000),
    )


_BRIA = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "axes_dims_rope": (0, 4, 4),
}


_TEXT = {"tasks": ("text2image",)}

FAMILIES = [
    Family("Sana_1600M_1024px", sana, steps=20, guidance=4.5, tokens=300, **_TEXT),
    Family(
        "Sana_Sprint_1.6B_1024px",
        sana_sprint,
        tasks=("text2image", "img2img"),
        steps=2,
        guidance=4.5,
        negative=False,
        tokens=300,
    ),
    Family("PixArt-Sigma-XL-2-1024-MS", pixart_sigma, steps=20, guidance=4.5, tokens=300, **_TEXT),
    Family("HiDream-I1-Full", hidream, tokens=128, shrink=_shrink_hidream, **_TEXT),
    Family("HunyuanDiT-v1.2", hunyuan_dit, tokens=None, shrink=_shrink_hunyuan_dit, **_TEXT),
    Family("Lumina-Image-2.0", lumina2, steps=30, guidance=4.0, tokens=256, **_TEXT),
    Family("CogView4-6B", cogview4, tokens=1024, **_TEXT),
    Family("AuraFlow-v0.3", aura_flow, guidance=3.5, tokens=256, **_TEXT),
    Family("BRIA-3.2", bria, steps=30, tokens=128, **_TEXT),
    Family("FIBO", bria_fibo, steps=30, tokens=3000, **_TEXT),
]
