"""Pipelines whose text encoder is a Qwen."""

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_inpaint,
    pipeline_qwenimage_edit_plus,
)
from torch import nn
from transformers import Qwen3Model

from tests.imagegen.families import parts
from tests.imagegen.families.family import Family, edit_index


def qwen_image(kind: type = QwenImagePipeline) -> Any:
    """Return a Qwen-Image; `_add_processor` adds what the editing classes need besides."""
    words = parts.vision_tokenizer(1024)
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=parts.WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    nn.init.normal_(transformer.transformer_blocks[0].attn.add_v_proj.weight, std=20)  # few words, many patches
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9),
        vae=parts.vae_qwen(),
        text_encoder=parts.qwen2_5_vl(words),
        tokenizer=words,
        transformer=parts.amplify(transformer),
        **({} if kind is QwenImagePipeline else {"processor": None}),
    )


def _add_processor(folder: Path) -> None:
    """Add the processor of an editing model as the hub has it: a tokenizer and two descriptions."""
    parts.vision_tokenizer(1024).save_pretrained(folder / "processor")
    pixels = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 56**2, "max_pixels": 112**2}
    for part in ("image", "video"):
        text = json.dumps({f"{part}_processor_type": f"Qwen2VL{part.title()}Processor", **pixels})
        (folder / "processor" / f"{part}_preprocessor_config.json".removeprefix("image_")).write_text(text)
    edit_index(folder, processor=["transformers", "Qwen2VLProcessor"])


def _shrink_edit(pipeline: Any, patch: pytest.MonkeyPatch) -> None:
    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_inpaint, pipeline_qwenimage_edit_plus):
        dimensions = module.calculate_dimensions
        patch.setattr(module, "calculate_dimensions", lambda area, ratio, own=dimensions: own(area / 16, ratio))


def z_image(shift: float) -> ZImagePipeline:
    """Return a Z-Image; Turbo differs in its scheduler's `shift`."""
    transformer = ZImageTransformer2DModel(
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=parts.WIDTH,
        axes_dims=(4, 6, 6),
        axes_lens=(1024, 512, 512),
    )
    nn.init.normal_(transformer.x_pad_token)  # not initialised otherwise
    nn.init.normal_(transformer.cap_pad_token)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=parts.vae_flux(),
        text_encoder=parts.qwen3(Qwen3Model),
        tokenizer=parts.tokenizer(512, chat=True),
        transformer=transformer,
    )


def ovis() -> OvisImagePipeline:
    """Return an Ovis-Image."""
    return OvisImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=parts.vae_flux(),
        text_encoder=parts.qwen3(Qwen3Model),
        tokenizer=parts.tokenizer(1024, chat=True),
        transformer=parts.amplify(
            OvisImageTransformer2DModel(
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=parts.WIDTH,
                axes_dims_rope=(4, 6, 6),
            )
        ),
    )


def krea2() -> Krea2Pipeline:
    """Return a Krea 2, whose index lists the layers of the text encoder that it takes."""
    words = parts.vision_tokenizer(1024)
    return Krea2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_image_seq_len=6400),
        vae=parts.vae_qwen(),
        text_encoder=parts.qwen3_vl(words),
        tokenizer=words,
        transformer=parts.amplify(
            Krea2Transformer2DModel(
                in_channels=16,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                num_key_value_heads=1,
                intermediate_size=32,
                timestep_embed_dim=8,
                text_hidden_dim=parts.WIDTH,
                num_text_layers=3,
                text_num_attention_heads=2,
                text_num_key_value_heads=1,
                text_intermediate_size=16,
                num_layerwise_text_blocks=1,
                num_refiner_text_blocks=1,
                axes_dims_rope=(4, 2, 2),
            )
        ),
        text_encoder_select_layers=(0, 1, 2),
    )


_QWEN = {"guidance": 4.0}
_EDIT = {**_QWEN, "finish": _add_processor, "shrink": _shrink_edit}

FAMILIES = [
    Family("Qwen-Image", qwen_image, **_QWEN),
    Family(
        "Qwen-Image-Edit",
        lambda: qwen_image(QwenImageEditPipeline),
        tasks=("edit", "inpaint"),
        **_EDIT,
    ),
    Family("Qwen-Image-Edit-Plus", lambda: qwen_image(QwenImageEditPlusPipeline), tasks=("edit",), **_EDIT),
    Family("Z-Image", lambda: z_image(6.0)),
    Family("Z-Image-Turbo", lambda: z_image(3.0), steps=9, guidance=0.0),
    Family("Ovis-Image-7B", ovis, tasks=("text2image",), tokens=256),
    Family("Krea-2", krea2, tasks=("text2image",), steps=28, guidance=4.5),
]
