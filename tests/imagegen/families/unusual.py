"""Pipelines that lack a usual part: an autoencoder called `vae`, latents, a prompt, or pictures."""

from diffusers import (
    AutoencoderKLLTXVideo,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    IFPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22Pipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UNet2DConditionModel,
    VQModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.deepfloyd_if import IFWatermarker

from tests.imagegen.families import parts
from tests.imagegen.families.family import Family


def kandinsky3() -> Kandinsky3Pipeline:
    """Return a Kandinsky 3, whose autoencoder is called `movq`."""
    return Kandinsky3Pipeline(
        tokenizer=parts.tokenizer(128),
        text_encoder=parts.t5(),
        unet=Kandinsky3UNet(
            time_embedding_dim=16,
            groups=2,
            attention_head_dim=4,
            layers_per_block=3,
            block_out_channels=(8, 16),
            cross_attention_dim=8,
            encoder_hid_dim=parts.WIDTH,
        ),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        movq=_movq(),
    )


def kandinsky22() -> KandinskyV22Pipeline:
    """Return Kandinsky 2.2's decoder: it draws from a picture's embedding, which another model predicts."""
    return KandinskyV22Pipeline(
        unet=UNet2DConditionModel(
            **_PIXEL_UNET, in_channels=4, out_channels=8, addition_embed_type="image", encoder_hid_dim_type="image_proj"
        ),
        scheduler=DDPMScheduler(variance_type="learned_range"),
        movq=_movq(),
    )


def _movq() -> VQModel:
    """Return Kandinsky's autoencoder, 8x down."""
    return VQModel(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        norm_type="spatial",
        num_vq_embeddings=16,
        vq_embed_dim=4,
    )


def deepfloyd() -> IFPipeline:
    """Return a DeepFloyd IF: it draws pixels of 64x64 and has no autoencoder."""
    return IFPipeline(
        tokenizer=parts.tokenizer(77),
        text_encoder=parts.t5(),
        unet=UNet2DConditionModel(
            **_PIXEL_UNET,
            in_channels=3,
            out_channels=6,
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            act_fn="gelu",
        ),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True),
        safety_checker=None,
        feature_extractor=None,
        watermarker=IFWatermarker(),
        requires_safety_checker=False,
    )


_PIXEL_UNET = {
    "sample_size": 64,
    "layers_per_block": 1,
    "block_out_channels": (8, 8, 16),  # attention to a quarter of the pixels would take seconds
    "norm_num_groups": 4,
    "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
    "cross_attention_dim": 32,
    "encoder_hid_dim": parts.WIDTH,
    "attention_head_dim": 8,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
}


def ltx() -> LTXPipeline:
    """Return an LTX-Video."""
    return LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
        ),
        text_encoder=parts.t5(),
        tokenizer=parts.tokenizer(128),
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_layers=1,
            caption_channels=parts.WIDTH,
        ),
    )


def wan() -> WanPipeline:
    """Return a Wan 2.1."""
    return WanPipeline(
        tokenizer=parts.tokenizer(512),
        text_encoder=parts.umt5(),
        vae=parts.vae_wan(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=parts.WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=1,
        ),
    )


_VIDEO = {"tasks": (), "refused": "video"}

FAMILIES = [
    Family("kandinsky-3", kandinsky3, tasks=("text2image", "img2img"), steps=25, guidance=3.0, tokens=None),
    Family("IF-I-XL-v1.0", deepfloyd, steps=100, guidance=7.0, tokens=None),
    Family("kandinsky-2-2-decoder", kandinsky22, tasks=(), refused="image_embeds"),
    Family("LTX-Video", ltx, **_VIDEO),
    Family("Wan2.1-T2V-1.3B", wan, **_VIDEO),
]
