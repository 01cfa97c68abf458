"""The two text encoders, trained together with the transformer, and their tokenizers as transformers loads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from training.vocabulary import END, END_ID, PAD, PAD_ID, START, START_ID, UNKNOWN, tokenizer

if TYPE_CHECKING:
    from training.config import Config

MULTIPLE = 64  # vocabularies are rounded up to this, for the GPU's sake


def wrapped_tokenizer(words: list[str], max_words: int, *, start: bool) -> PreTrainedTokenizerFast:
    """The tokenizer in the class that loads its file as it is, whatever the model inside."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(words, start=start),
        model_max_length=max_words,
        model_input_names=["input_ids", "attention_mask"],
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        bos_token=START,
    )


def t5_encoder(config: Config, vocabulary_size: int) -> T5EncoderModel:
    """The encoder whose states the transformer attends to."""
    return T5EncoderModel(
        T5Config(
            vocab_size=_rounded(vocabulary_size),
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
    """The encoder whose pooled state (at </s>) modulates every block."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=_rounded(vocabulary_size),
            hidden_size=config.clip_width,
            intermediate_size=config.clip_width * 4,
            num_hidden_layers=config.clip_layers,
            num_attention_heads=config.clip_width // 32,
            max_position_embeddings=config.max_words,
            projection_dim=config.clip_width,
            bos_token_id=START_ID,
            eos_token_id=END_ID,
            pad_token_id=PAD_ID,
        )
    )


def _rounded(size: int) -> int:
    return -(-size // MULTIPLE) * MULTIPLE
