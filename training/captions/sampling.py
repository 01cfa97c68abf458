"""Token ids for sampled scenes, for use in worker processes. Imports no torch, so that a worker starts quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.captions import scenes, vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def sample_tokens(
    names: list[list[str]], colours: list[str | None], words: list[str], seed: int, shape: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Return the rows of random scenes and the token ids of their captions; `shape` is (scenes, captions, tokens)."""
    count, captions, length = shape
    rows, texts = scenes.sample_scenes(names, colours, seed, count, captions)
    token_ids = vocabulary.encode(words, [text for each in texts for text in each], length)
    return rows, token_ids.reshape(shape)
