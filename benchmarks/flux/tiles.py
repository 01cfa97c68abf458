"""Whole steps with other cuBLAS tiles at the power limit: the gain of `imagegen.flux.cublas.tiles_for`.

The kernel that is fastest after a pause may draw more power, which slows down the other kernels. Therefore each rule
runs alone for a second at a time, in a new random order in each round.
"""

from __future__ import annotations

import random
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from benchmarks.flux.step import Schedule, ours, scheduled
from benchmarks.flux.weights import transformer
from imagegen.flux import cublas

if TYPE_CHECKING:
    from collections.abc import Callable

    from imagegen.flux.cublas import Shape, Tiles

    Rule = Callable[[Shape, int], Tiles | None]

SIZES = [(1024, 1024), (512, 512), (1920, 1088)]


def heuristic(_shape: Shape, _sm_count: int) -> None:
    """Leave the choice to cuBLAS."""


RULES: dict[str, Rule] = {"the heuristic's": heuristic, "fewest rounds": cublas.tiles_for}


@torch.inference_mode()
def steps() -> dict[str, dict[str, float]]:
    """Return the median ms of a step for each rule, at each size and precision."""
    reference = transformer()
    figures = {}
    for precision in ("bf16", "fp8"):
        model = ours(reference, precision)
        model.bind_scheduler(Schedule())
        for size in SIZES:
            figures[f"{precision}, {size[0]}x{size[1]}"] = _in_turns(model, size)
        del model
    return figures


def _in_turns(model: Any, size: tuple[int, int], seconds: float = 1.0, rounds: int = 4) -> dict[str, float]:
    given = scheduled(*size)
    captured: dict[str, Any] = {}
    for name, rule in RULES.items():
        with patch.object(cublas, "tiles_for", rule):
            cublas.plans.clear()
            model.graphs.captured = {}
            model(**given)
        captured[name] = model.graphs.captured

    def turn(name: str, steps: int) -> float:
        model.graphs.captured = captured[name]
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(steps):
            model(**given)
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) / steps

    order = list(RULES)
    steps = int(seconds * 1e3 / turn(order[0], 10)) + 1
    spans: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            turn(name, steps // 4)
            spans[name].append(turn(name, steps))
    model.graphs.captured = {}
    cublas.plans.clear()
    return {name: median(times) for name, times in spans.items()}
