"""The full-size FLUX.1-dev architecture with random weights: speed does not depend on their values."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

if TYPE_CHECKING:
    from pathlib import Path

DEV = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}


def randomize(module: torch.nn.Module, seed: int = 0) -> None:
    """Fill a module with random weights that keep activations at the scale of a trained model."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(std=fan_in**-0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(std=0.02, generator=generator)
            else:  # a norm's weight
                parameter.normal_(mean=1.0, std=0.1, generator=generator)


def transformer(dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return diffusers' FLUX.1-dev transformer on the GPU with random weights."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(**DEV)
    model = model.to(dtype).to_empty(device="cuda").eval().requires_grad_(False)
    randomize(model)
    return model


def pipeline(denoiser: Any = None) -> Any:
    """Return diffusers' FLUX.1-dev pipeline on the GPU, all parts at full size with random weights."""
    with torch.device("meta"):
        parts = {
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=768,
                    intermediate_size=3072,
                    num_hidden_layers=12,
                    num_attention_heads=12,
                    projection_dim=768,
                )
            ),
            "text_encoder_2": T5EncoderModel(
                T5Config(
                    d_model=4096,
                    d_kv=64,
                    d_ff=10240,
                    num_layers=24,
                    num_heads=64,
                    feed_forward_proj="gated-gelu",
                )
            ),
        }
    for part in parts.values():
        for module in part.modules():
            for name, value in [*module.named_parameters(recurse=False)]:
                empty = torch.empty_like(value, device="cuda", dtype=torch.bfloat16)
                setattr(module, name, torch.nn.Parameter(empty, requires_grad=False))
            for name, buffer in [*module.named_buffers(recurse=False)]:
                positions = torch.arange(buffer.numel(), device="cuda", dtype=buffer.dtype)
                module.register_buffer(name, positions.view(buffer.shape), persistent=False)
        part.tie_weights()
        randomize(part.eval())
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        sample_size=1024,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    vae = vae.to("cuda", torch.bfloat16).eval().requires_grad_(False)
    randomize(vae)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        tokenizer=_tokenizer(77, bos="<s>"),
        tokenizer_2=_tokenizer(512),
        transformer=transformer() if denoiser is None else denoiser,
        **parts,
    )


def checkpoint(folder: Path) -> Path:
    """Write the pipeline to a folder in diffusers' layout: 34 GB, the size of FLUX.1-dev."""
    pipeline().save_pretrained(folder)
    return folder


def _tokenizer(length: int, bos: str | None = None) -> Any:
    """Return a tokenizer with a token per letter. The encoders process all positions, whatever the prompt."""
    vocab = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", "<s>", *string.ascii_lowercase])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"} | ({"bos_token": bos} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **names)


def inputs(width: int, height: int, text: int = 512, batch: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the transformer's inputs for an image of `width` x `height` pixels, in bf16."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    rows, columns = height // 16, width // 16

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda", generator=generator).to(torch.bfloat16)

    ids = torch.zeros(rows, columns, 3, device="cuda")
    ids[..., 1] = torch.arange(rows, device="cuda")[:, None]
    ids[..., 2] = torch.arange(columns, device="cuda")[None]
    return {
        "hidden_states": normal(batch, rows * columns, DEV["in_channels"]),  # type: ignore[arg-type]  # the table is mixed
        "encoder_hidden_states": normal(batch, text, 4096),
        "pooled_projections": normal(batch, 768),
        "timestep": torch.full([batch], 0.5, device="cuda", dtype=torch.bfloat16),
        "img_ids": ids.view(-1, 3).to(torch.bfloat16),
        "txt_ids": torch.zeros(text, 3, device="cuda", dtype=torch.bfloat16),
        # Times 1000, this guidance is exact in bf16, so that all paths compute the same function.
        "guidance": torch.full([batch], 4.0, device="cuda"),
    }
