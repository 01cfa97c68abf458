"""FLUX.1 and FLUX.2."""

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import (
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux import pipeline_flux_kontext, pipeline_flux_kontext_inpaint
from transformers import Qwen3ForCausalLM

from tests.imagegen.families import parts
from tests.imagegen.families.family import Family, edit_index

SHAPE = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}


def flux1(kind: type = FluxPipeline, *, channels: int = 64, guided: bool = True) -> Any:
    """Return a FLUX.1 of class `kind`, whose transformer reads `channels` channels."""
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guided, shift=3.0 if guided else 1.0),
        vae=parts.vae_flux(),
        text_encoder=parts.clip(layers=1),
        tokenizer=parts.tokenizer(77),
        text_encoder_2=parts.t5(),
        tokenizer_2=parts.tokenizer(512),
        transformer=FluxTransformer2DModel(
            **SHAPE,
            in_channels=channels,
            out_channels=64,
            joint_attention_dim=parts.WIDTH,
            pooled_projection_dim=parts.WIDTH,
            guidance_embeds=guided,
            axes_dims_rope=(4, 6, 6),
        ),
    )


def _shrink_kontext(pipeline: Any, patch: pytest.MonkeyPatch) -> None:
    for module in (pipeline_flux_kontext, pipeline_flux_kontext_inpaint):
        sizes = [(width // 4, height // 4) for width, height in module.PREFERRED_KONTEXT_RESOLUTIONS]
        patch.setattr(module, "PREFERRED_KONTEXT_RESOLUTIONS", sizes)


def klein() -> Flux2KleinPipeline:
    """Return a FLUX.2 klein, which takes the states of three layers of its text encoder."""
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=parts.vae_flux2(),
        text_encoder=parts.qwen3(Qwen3ForCausalLM, layers=28),
        tokenizer=parts.tokenizer(512, chat=True),
        transformer=flux2_transformer(guidance_embeds=False),
        is_distilled=True,
    )


def flux2() -> Flux2Pipeline:
    """Return a FLUX.2, whose tokenizer `_name_processor` describes as the hub does."""
    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=parts.vae_flux2(),
        text_encoder=parts.mistral3(),
        tokenizer=parts.tokenizer(512, chat=True),
        transformer=flux2_transformer(),
    )


def _name_processor(folder: Path) -> None:
    """Turn the tokenizer into a processor for text and pictures: transformers' own needs torchvision."""
    about = {"image_processor_type": "PixtralImageProcessor", "processor_class": "PixtralProcessor"}
    (folder / "tokenizer" / "preprocessor_config.json").write_text(json.dumps(about))
    (folder / "tokenizer" / "processor_config.json").write_text(json.dumps({"processor_class": "PixtralProcessor"}))
    edit_index(folder, tokenizer=["transformers", "PixtralProcessor"])


def flux2_transformer(**config: object) -> Flux2Transformer2DModel:
    """Return FLUX.2's transformer."""
    return parts.amplify(
        Flux2Transformer2DModel(
            **SHAPE,
            in_channels=16,
            joint_attention_dim=3 * parts.WIDTH,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            **config,
        )
    )


def chroma() -> ChromaPipeline:
    """Return a Chroma: FLUX.1 without CLIP, and with classifier-free guidance."""
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae_flux(),
        text_encoder=parts.t5(),
        tokenizer=parts.tokenizer(512),
        transformer=ChromaTransformer2DModel(
            **SHAPE,
            in_channels=64,
            joint_attention_dim=parts.WIDTH,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=32,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
    )


FAMILIES = [
    Family("FLUX.1-dev", flux1, steps=28, guidance=3.5),
    Family("FLUX.1-schnell", lambda: flux1(guided=False), steps=4, guidance=None, tokens=256),
    Family(
        "FLUX.1-Fill-dev",
        lambda: flux1(FluxFillPipeline, channels=384),
        tasks=("inpaint",),
        guidance=30.0,
        negative=False,
    ),
    Family(
        "FLUX.1-Kontext-dev",
        lambda: flux1(FluxKontextPipeline),
        tasks=("text2image", "edit", "inpaint"),
        steps=28,
        guidance=3.5,  # the class's; its authors use 2.5
        shrink=_shrink_kontext,
    ),
    Family(
        "FLUX.1-Depth-dev",
        lambda: flux1(FluxControlPipeline, channels=128),
        tasks=(),
        refused="control image",
        steps=28,
        guidance=3.5,
        negative=False,
    ),
    Family("FLUX.2-dev", flux2, tasks=("text2image", "edit"), guidance=4.0, negative=False, finish=_name_processor),
    Family(
        "FLUX.2-klein",
        klein,
        tasks=("text2image", "edit", "inpaint"),
        steps=4,
        guidance=None,
        negative=False,
    ),
    Family("Chroma", chroma, tasks=("text2image", "img2img"), steps=35),
]
