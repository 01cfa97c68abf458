"""Which tiles of cuBLAS's make a whole step fastest: what `imagegen.flux.cublas.tiles_for` was chosen by."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from benchmarks.flux.step import Schedule, ours, scheduled
from benchmarks.flux.weights import transformer
from imagegen.flux import cublas
from imagegen.flux.cublas import Shape, Tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    Rule = Callable[[Shape], Tiles | None]

SIZES = [(1024, 1024), (512, 512), (1920, 1088)]
TILES = {
    "128x160, clusters of 2x1": Tiles(29, 1, 3),
    "128x256, clusters of 2x1": Tiles(23, 5, 3),
    "96x192, clusters of 2x1": Tiles(151, 0, 3),
}


def rules() -> dict[str, Rule]:
    """Each tile for the feed-forward's first product, for q, k and v, and for both; and the library's own choice."""
    out: dict[str, Rule] = {"the heuristic's": lambda shape: None}
    for name, tiles in TILES.items():
        for label, times in (("GELU", {4}), ("qkv", {3}), ("both", {3, 4})):
            out[f"{name}: {label}"] = _rule(tiles, times)
    return out


def _rule(tiles: Tiles, times: set[int]) -> Rule:
    return lambda shape: tiles if shape.rows > 600 and shape.out / shape.inner in times else None  # not the text's rows


@torch.inference_mode()
def steps(repeats: int = 9) -> dict[str, dict[str, float]]:
    """Median ms of a step at each size with each rule, in turns, so that a GPU that slows down slows all of them."""
    reference = transformer()
    model = ours(reference)
    model.scheduler = Schedule
    del reference
    torch.cuda.empty_cache()
    return {"{}x{}".format(*size): _in_turns(model, size, repeats) for size in SIZES}


def _in_turns(model: Any, size: tuple[int, int], repeats: int) -> dict[str, float]:
    given = scheduled(*size)
    recorded: dict[str, Any] = {}
    spans: dict[str, list[Any]] = {}
    for name, rule in rules().items():
        with patch.object(cublas, "tiles_for", rule):
            cublas.plan.cache_clear()
            model.recorder.graphs = {}
            for _ in range(2):
                model(**given)
        recorded[name], spans[name] = model.recorder.graphs, []
    for _ in range(repeats):
        for name, graphs in recorded.items():
            model.recorder.graphs = graphs
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            model(**given)
            stop.record()
            spans[name].append((start, stop))
    torch.cuda.synchronize()
    model.recorder.graphs = {}
    cublas.plan.cache_clear()
    return {name: median(start.elapsed_time(stop) for start, stop in pairs) for name, pairs in spans.items()}
