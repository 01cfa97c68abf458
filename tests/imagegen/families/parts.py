"""Tokenizers, text encoders and autoencoders of a few thousand random weights, which the families share."""

from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
)
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.imagegen import tiny

WIDTH = 16  # of every text encoder
_VAE = {
    "block_out_channels": (4, 4, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "mid_block_add_attention": False,
}
VISION = {"image_pad": "image", "video_pad": "video", "vision_start": "vision_start", "vision_end": "vision_end"}
CHAT = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%} {{ message.content }}
{%- else -%} {%- for part in message.content -%} {{ part.text }} {%- endfor -%}
{%- endif -%} <|im_end|>
{% endfor -%}"""


def tokenizer(length: int = 77, *, chat: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words and letters; with `chat` it has a chat template like Qwen's."""
    words = tiny.tokenizer(length)
    if chat:
        words.chat_template = CHAT
    return words


def clip(kind: type = CLIPTextModel, *, layers: int = 2, length: int = 77) -> Any:
    """Return a CLIP text encoder of class `kind`."""
    ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    return kind(CLIPTextConfig(**_config(layers), max_position_embeddings=length, projection_dim=WIDTH, **ids))


def t5(width: int = WIDTH) -> T5EncoderModel:
    """Return a T5 encoder."""
    return T5EncoderModel(T5Config(vocab_size=128, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def qwen3(kind: type, *, layers: int = 2) -> Any:
    """Return a Qwen3 of class `kind`."""
    return kind(Qwen3Config(**_config(layers), num_key_value_heads=2, head_dim=8))


def umt5() -> UMT5EncoderModel:
    """Return a UMT5 encoder."""
    return UMT5EncoderModel(UMT5Config(vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def bert() -> BertModel:
    """Return a BERT."""
    return BertModel(BertConfig(**_config(1), max_position_embeddings=77))


def llama(kind: type, config: type, **options: object) -> Any:
    """Return a language model of class `kind`, built like Llama."""
    ids = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    return kind(config(**{**_config(2), "num_key_value_heads": 2, "head_dim": 8, **ids, **options}))


def gemma2() -> Gemma2Model:
    """Return a Gemma 2."""
    return Gemma2Model(Gemma2Config(**_config(1), num_key_value_heads=2, head_dim=8))


def mistral3() -> Mistral3ForConditionalGeneration:
    """Return a Mistral Small 3, of whose language model FLUX.2 takes the states of layers 10, 20 and 30."""
    vision = {"model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={"model_type": "mistral", **_config(30), "num_key_value_heads": 2, "head_dim": 8},
            vision_config={**vision, "intermediate_size": 32, "head_dim": 8},
        )
    )


def vision_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer with Qwen-VL's marks of pictures and videos."""
    words = tokenizer(length, chat=True)
    words.add_tokens([f"<|{mark}|>" for mark in VISION], special_tokens=True)
    return words


def qwen2_5_vl(words: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """Return a Qwen2.5-VL, which reads text and pictures."""
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={**_config(2), "num_key_value_heads": 2, "rope_parameters": rope},
            vision_config=vision,
            **_vision_ids(words),
        )
    )


def qwen3_vl(words: PreTrainedTokenizerFast) -> Qwen3VLModel:
    """Return a Qwen3-VL, which reads text and pictures."""
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    return Qwen3VLModel(
        Qwen3VLConfig(
            text_config={**_config(2), "num_key_value_heads": 2, "head_dim": 8, "rope_parameters": rope},
            vision_config={**vision, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
            **_vision_ids(words),
        )
    )


def _vision_ids(words: PreTrainedTokenizerFast) -> dict[str, int]:
    return {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{mark}|>") for mark, name in VISION.items()}


def amplify(transformer: Any) -> Any:
    """Return a transformer with larger weights, where the prompt would otherwise change no pixel."""
    with torch.no_grad():
        for weight in transformer.parameters():
            if weight.ndim == 2:  # neither biases nor norms
                weight.mul_(3)
    return transformer


def _config(layers: int) -> dict[str, int]:
    """Return what all text encoders have in common."""
    return {
        "vocab_size": 128,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
    }


def vae(channels: int = 4, **config: object) -> AutoencoderKL:
    """Return an autoencoder, 8x down, fast enough for the models that always draw a megapixel."""
    return AutoencoderKL(**_VAE, latent_channels=channels, **config)


def vae_flux() -> AutoencoderKL:
    """Return FLUX.1's autoencoder: 16 channels, and latents with a shift."""
    return vae(16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159)


def vae_flux2() -> AutoencoderKLFlux2:
    """Return FLUX.2's autoencoder: 32 channels, and latents normalised by a batch norm."""
    return AutoencoderKLFlux2(**_VAE, latent_channels=4)


def vae_qwen() -> AutoencoderKLQwenImage:
    """Return Qwen-Image's autoencoder, made for video: 8x down, one frame here."""
    model = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=0,  # convolutions in three dimensions are slow on a CPU
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    with torch.no_grad():
        model.decoder.conv_out.weight.mul_(4)  # more contrast
    return model


def vae_dc() -> AutoencoderDC:
    """Return Sana's autoencoder, 32x down."""
    blocks = ("ResBlock",) * 5 + ("EfficientViTBlock",)
    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(4, 4, 4, 4, 8, 8),
        decoder_block_out_channels=(4, 4, 4, 4, 8, 8),
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )


def vae_wan(**config: object) -> AutoencoderKLWan:
    """Return Wan's autoencoder, made for video: 8x down."""
    return AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True], **config
    )
