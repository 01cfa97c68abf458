"""Scenes and their tokens by the thousand, on all cores; imports nothing heavy, so that a process starts at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training import scenes, vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def think(
    names: list[list[str]], own: list[str | None], words: list[str], seed: int, size: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """`size` is (scenes, captions, tokens): rows for `compose`, and that many token ids."""
    count, captions, length = size
    rows, texts = scenes.think_up(names, own, seed, count, captions)
    tokens = vocabulary.encode(words, [text for each in texts for text in each], length)
    return rows, tokens.reshape(size)
