"""The two text encoders, which are trained with the transformer, and their tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from training.captions.vocabulary import END, END_ID, PAD, PAD_ID, START, START_ID, UNKNOWN, tokenizer

if TYPE_CHECKING:
    from training.config import Config

VOCABULARY_MULTIPLE = 64  # vocabulary sizes are rounded up to a multiple that is fast on a GPU


def wrapped_tokenizer(words: list[str], max_tokens: int, *, start: bool) -> PreTrainedTokenizerFast:
    """Wrap the tokenizer in the transformers class that loads any tokenizer.json."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(words, start=start),
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        bos_token=START,
    )


def t5_encoder(config: Config, vocabulary_size: int) -> T5EncoderModel:
    """Return the T5 encoder, whose hidden states the transformer attends to."""
    return T5EncoderModel(
        T5Config(
            vocab_size=_round_up(vocabulary_size),
            d_model=config.t5_width,
            d_kv=32,
            num_heads=config.t5_width // 32,
            d_ff=config.t5_width * 2,
            num_layers=config.t5_layers,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
            pad_token_id=PAD_ID,
            eos_token_id=END_ID,
        )
    )


def clip_encoder(config: Config, vocabulary_size: int) -> CLIPTextModel:
    """Return the CLIP encoder, whose pooled state (at </s>) modulates every block."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=_round_up(vocabulary_size),
            hidden_size=config.clip_width,
            intermediate_size=config.clip_width * 4,
            num_hidden_layers=config.clip_layers,
            num_attention_heads=config.clip_width // 32,
            max_position_embeddings=config.max_tokens,
            projection_dim=config.clip_width,
            bos_token_id=START_ID,
            eos_token_id=END_ID,
            pad_token_id=PAD_ID,
        )
    )


def _round_up(size: int) -> int:
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
