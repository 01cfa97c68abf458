"""The vocabulary, and the tokenizer of both text encoders.

One word is one token. A word outside the vocabulary becomes `<unk>`, which the model has learnt to ignore. The
normalizer removes plural endings: "apples" becomes "apple".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from training.captions import palette, phrases

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

PAD, END, UNKNOWN, START = "<pad>", "</s>", "<unk>", "<s>"
SPECIAL = (PAD, END, UNKNOWN, START)  # token ids 0 to 3
PAD_ID, END_ID, UNKNOWN_ID, START_ID = range(4)

# Function words of prompts, not all of which occur in the phrases.
FUNCTION_WORDS = """
    a an the one two 2 pair couple of on in at to with and or by for from near over under into out off up down is it its
    this that my your his her their some any no not very named called against front wall backdrop background right left
    three four many small big next beside together which who what has have are be as like please me i you we
"""


def normalizer() -> normalizers.Normalizer:
    """Return the normalizer: lower case, letters and digits only, no plural endings.

    It shortens cherries, boxes and apples, but neither glass nor bus.
    """
    return normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("['\u2019]"), ""),
            normalizers.Replace(Regex("[^a-z0-9]+"), " "),
            normalizers.Replace(Regex(r"(?<=[a-z]{2})ies\b"), "y"),
            normalizers.Replace(Regex(r"(?<=x|ch|sh|ss)es\b"), ""),
            normalizers.Replace(Regex(r"(?<=[a-z]{2})(?<![su])s\b"), ""),
        ]
    )


def vocabulary(names: Iterable[Iterable[str]]) -> list[str]:
    """Return every word of names, colours, places and fillers in normalized form, in a fixed order."""
    texts = [name for each in names for name in each]
    texts += [word for colour in palette.COLOURS.values() for word in colour.words]
    texts += [
        word for each in (palette.SKIES, palette.GROUNDS) for background in each.values() for word in background.words
    ]
    texts += [word for _, words in (*phrases.PLACES.values(), *phrases.SIZES.values()) for word in words]
    for fillers in (
        phrases.OPENINGS,
        phrases.STYLES,
        phrases.ADJECTIVES,
        phrases.ACTIVITIES,
        phrases.CLAUSES,
        phrases.CONJUNCTIONS,
    ):
        texts += fillers
    plain = normalizer()
    words = {word for text in (*texts, FUNCTION_WORDS) for word in plain.normalize_str(text).split()}
    return [*SPECIAL, *sorted(words)]


def tokenizer(words: list[str], *, start: bool) -> Tokenizer:
    """Return the tokenizer for T5 (appends </s>) or, with `start`, for CLIP (also prepends <s>)."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNKNOWN))
    backend.normalizer = normalizer()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = f"{START} $A {END}" if start else f"$A {END}"
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(START, START_ID), (END, END_ID)]
    )
    return backend


def encode(words: list[str], texts: list[str], max_tokens: int) -> NDArray[np.int16]:
    """Return the T5 token ids of captions, (captions, max_tokens)."""
    backend = tokenizer(words, start=False)
    backend.enable_truncation(max_tokens)
    backend.enable_padding(length=max_tokens, pad_id=PAD_ID, pad_token=PAD)
    return np.array([row.ids for row in backend.encode_batch_fast(texts)], dtype=np.int16)
