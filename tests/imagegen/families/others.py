"""Pipelines of other makers."""

from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
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
            sample_size=128,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            use_additional_conditions=False,
            caption_channels=parts.WIDTH,
        ),
        scheduler=DPMSolverMultistepScheduler(),
    )


FAMILIES = [
    Family("Sana_1600M_1024px", sana, tasks=("text2image",), steps=20, guidance=4.5, tokens=300, multiple=32),
    Family(
        "Sana_Sprint_1.6B_1024px",
        sana_sprint,
        tasks=("text2image", "img2img"),
        steps=2,
        guidance=4.5,
        negative="none",
        tokens=300,
        multiple=32,
    ),
    Family("PixArt-Sigma-XL-2-1024-MS", pixart_sigma, tasks=("text2image",), steps=20, guidance=4.5, tokens=300),
]
