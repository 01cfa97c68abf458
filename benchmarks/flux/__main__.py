"""`python -m benchmarks.flux [PART ...]`: everything docs/performance.md says, measured in one run on one GPU.

    step       time and exactness of one denoising step, ours and diffusers'
    tiles      one step with other tiles of cuBLAS's
    compiled   diffusers compiled by blocks
    image      whole pictures and the queue, from a random checkpoint on disk (34 GB, written first)
    server     the same checkpoint through `chutes run`, over HTTP
    torchao    diffusers with torchao's rowwise fp8, compiled by blocks (minutes of compiling)

Without a PART, all of them. Every figure goes into one JSON file under benchmarks/results as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.flux import image, peers, server, step, tiles, weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PARTS = ("step", "tiles", "compiled", "image", "server", "torchao")
PRECISIONS = ("bf16", "fp8", "fp8+attention")
_console = Console()


class Results:
    """What was measured so far, on disk after each figure."""

    def __init__(self, file: Path) -> None:
        self.file = file
        packages = {name: version(name) for name in ("torch", "triton", "diffusers", "transformers")}
        self.figures: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "packages": packages}

    def add(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure one thing, print it, and keep it; what fails is kept as its error, and the rest goes on."""
        try:
            self.figures[name] = measure()
        except Exception as error:  # noqa: BLE001 - an hour of other figures must not be lost with this one
            self.figures[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        step.release()
        _console.print(name, self.figures[name])
        self.file.write_text(json.dumps(self.figures, indent=2) + "\n")


def main() -> None:
    """Measure the parts named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flux", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "flux.json")
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/flux-random"), help="where the 34 GB go")
    options = parser.parse_args()
    parts = options.parts
    results = Results(options.out)
    results.add("matmul TFLOP/s", step.matmul_peak)
    results.add("floor ms", lambda: _floors(results.figures["matmul TFLOP/s"]))
    if "step" in parts:
        _steps(results)
    if "tiles" in parts:
        results.add("ms by tiles", partial(_alone, tiles.steps))
    if "compiled" in parts:
        results.add("ms, diffusers compiled by blocks", partial(_alone, peers.compiled))
    if "image" in parts or "server" in parts:
        _pictures(results, parts, options.checkpoint)
    if "torchao" in parts:
        results.add("ms, torchao fp8 rowwise compiled", partial(_alone, peers.torchao))
    _print(results.figures)


def _floors(peak: float) -> dict[str, float]:
    """All of a step's FLOP at the matmul peak of this very GPU, in ms."""
    return {f"{width}x{height}": step.flop(width, height) / peak / 1e9 for width, height in step.SIZES}


def _alone(measure: Callable[..., Any], *given: Any) -> Any:
    """Measure in a process of its own: memory is its own, and what compilers hold on to goes with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, *given).result()


def _steps(results: Results) -> None:
    denoiser = weights.transformer()
    results.add("ms of attention alone", step.attention_alone)
    results.add("error", partial(step.exactness, denoiser, step.SIZES[:2]))
    for precision in PRECISIONS:
        results.add(f"ms, ours {precision}", partial(step.our_steps, denoiser, precision))
        results.add(f"kernels, ours {precision}", partial(step.kernels_of_a_step, denoiser, precision))
    results.add("under load", partial(step.loads, denoiser))
    results.add("ms, diffusers eager", partial(step.peer_steps, denoiser, step.SIZES))


def _pictures(results: Results, parts: Sequence[str], checkpoint: Path) -> None:
    """Measure what draws from a checkpoint on disk; one that had to be written first is removed again."""
    if made := not checkpoint.is_dir():
        weights.checkpoint(checkpoint)
        step.release()
    for precision in PRECISIONS[:2]:
        if "image" in parts:
            results.add(f"image, ours {precision}", partial(_alone, image.measure, checkpoint, precision))
        if "server" in parts:
            results.add(f"server, ours {precision}", partial(server.over_http, checkpoint, precision))
    if made:
        shutil.rmtree(checkpoint)


def _print(figures: dict[str, Any]) -> None:
    """Print the steps' table."""
    table = Table("ms per step", *("{}x{}".format(*size) for size in step.SIZES))
    for name, row in figures.items():
        if name.startswith(("ms, ", "floor")) and "error" not in row:
            cells = (row.get("{}x{}".format(*size)) for size in step.SIZES)
            table.add_row(name.removeprefix("ms, "), *("" if cell is None else f"{cell:.1f}" for cell in cells))
    _console.print(table)


if __name__ == "__main__":
    main()
