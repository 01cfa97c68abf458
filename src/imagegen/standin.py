"""What draws until the bundled model is trained: a tiny FLUX with fixed random weights, built on the spot.

It draws patterns, but through every real module: T5 and CLIP with tokenizers of their own, a transformer with guidance
embedding, a VAE of 16 channels with a patch of 16 pixels. Everything but the meaning can be tested on it, and a folder
with a trained model takes its place by its path alone.
"""

import json
import os
import string
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

_WORDS = [*string.ascii_lowercase, *string.digits, "red", "blue", "green", "apple", "cat", "lake", "dragon"]
_NATIVE_SIZE = 256  # pixels, as the trained one will draw


def folder() -> Path:
    """Return the folder in the user's cache that holds it, written there the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "imagegen"
    target = cache / "stand-in-1"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            written = write(Path(scratch) / "model", native_size=_NATIVE_SIZE, name="untrained-stand-in")
            if not target.is_dir():  # another process may have been first
                written.rename(target)
    return target


def write(folder: Path, *, native_size: int | None = None, name: str = "tiny-random") -> Path:
    """Write a FLUX into `folder` and return it; with `native_size` it draws at that size only."""
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
    with torch.no_grad():  # latents of unit variance and without noise of their own, as a trained encoder's
        pipeline.vae.encoder.conv_out.weight[:16] *= 8
        pipeline.vae.encoder.conv_out.weight[16:] = 0
        pipeline.vae.encoder.conv_out.bias[16:] = -30
    pipeline.save_pretrained(folder)
    if native_size is not None:
        about = {"name": name, "native_size": native_size}
        (folder / "imagegen.json").write_text(json.dumps(about))
    return folder


def vae(channels: int, **config: Any) -> AutoencoderKL:
    """Return an autoencoder, 8x down, of a few thousand weights."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        mid_block_add_attention=False,
        **config,
    )


def clip(kind: Any, *, layers: int) -> Any:
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
    vocab = {word: i for i, word in enumerate(["<pad>", "</s>", "<s>", "<unk>", *_WORDS])}
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
