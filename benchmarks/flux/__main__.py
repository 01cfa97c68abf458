"""Measure FLUX.1-dev on one GPU: `python -m benchmarks.flux [PART ...]`.

    step       time and error of one denoising step, of the fast path and of diffusers
    tiles      one step with other cuBLAS tiles
    compiled   diffusers, compiled by blocks
    image      whole images and the queue, from a random checkpoint on disk (34 GB, written first)
    server     the same checkpoint through `chutes run`, over HTTP
    torchao    diffusers with torchao's rowwise fp8, compiled by blocks (minutes of compiling)

Without a PART, all parts run. Each figure is written to `results/flux.json` as soon as it is measured. Then
`python -m benchmarks.flux.page` updates docs/performance.md and its plot.
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

from benchmarks import results
from benchmarks.flux import image, peers, server, step, tiles, weights
from imagegen.flux.pipeline import PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

PARTS = ("step", "tiles", "compiled", "image", "server", "torchao")
_console = Console()


class Results:
    """The results file, which holds one run for each of "steps", "images" and "torchao"."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.runs: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8"))["runs"] if file.exists() else {}

    def begin(self, run: str) -> None:
        """Start a run: replace its figures, and measure the GPU's matmul peak."""
        packages = {name: version(name) for name in ("torch", "triton", "diffusers", "transformers")}
        source = results.provenance()
        source["machine"]["gpu"] = torch.cuda.get_device_name()
        self.figures: dict[str, Any] = {**source, "packages": packages}
        self.runs[run] = self.figures
        self.add("matmul TFLOP/s", step.matmul_peak)
        self.add("floor ms", lambda: _floors(self.figures["matmul TFLOP/s"]))

    def add(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure a figure, print it and write the file. An error is recorded, and the run continues."""
        try:
            self.figures[name] = measure()
        except Exception as error:  # noqa: BLE001 - an hour of other figures must not be lost with this one
            self.figures[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        step.release()
        _console.print(name, self.figures[name])
        results.write(self.file, {"runs": self.runs})


def main() -> None:
    """Measure the parts that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flux", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, default=results.RESULTS / "flux.json", help="the results file")
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/flux-random"), help="folder for the 34 GB")
    options = parser.parse_args()
    parts = set(options.parts)
    measured = Results(options.output)
    if parts & {"step", "tiles", "compiled"}:
        measured.begin("steps")
        if "step" in parts:
            _steps(measured)
        if "tiles" in parts:
            measured.add("ms by tiles", partial(_alone, tiles.steps))
        if "compiled" in parts:
            measured.add("ms, diffusers compiled by blocks", partial(_alone, peers.compiled))
        _print(measured.figures)
    if parts & {"image", "server"}:
        measured.begin("images")
        _images(measured, parts, options.checkpoint)
    if "torchao" in parts:
        measured.begin("torchao")
        measured.add("ms, torchao fp8 rowwise compiled", partial(_alone, peers.torchao))


def _floors(peak: float) -> dict[str, float]:
    """Return the time of a step's FLOP at this GPU's matmul peak, in ms."""
    return {f"{width}x{height}": step.flop(width, height) / peak / 1e9 for width, height in step.SIZES}


def _alone(measure: Callable[..., Any], *given: Any) -> Any:
    """Measure in a new process, so that compilers' caches and memory end with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, *given).result()


def _steps(measured: Results) -> None:
    denoiser = weights.transformer()
    measured.add("ms of attention alone", step.attention_alone)
    measured.add("error", partial(step.exactness, denoiser, step.SIZES[:2]))
    for precision in PRECISIONS:
        measured.add(f"ms, ours {precision}", partial(step.our_steps, denoiser, precision))
        measured.add(f"kernels, ours {precision}", partial(step.kernels_of_a_step, denoiser, precision))
    measured.add("under load", partial(step.constant_load, denoiser))
    measured.add("ms, diffusers eager", partial(step.peer_steps, denoiser, step.SIZES))


def _images(measured: Results, parts: AbstractSet[str], checkpoint: Path) -> None:
    """Measure images from a checkpoint on disk. A checkpoint that did not exist is written and removed."""
    if written := not checkpoint.is_dir():
        weights.checkpoint(checkpoint)
        step.release()
    for precision in PRECISIONS[:2]:
        if "image" in parts:
            measured.add(f"image, ours {precision}", partial(_alone, image.measure, checkpoint, precision))
        if "server" in parts:
            measured.add(f"server, ours {precision}", partial(server.over_http, checkpoint, precision))
    if written:
        shutil.rmtree(checkpoint)


def _print(figures: dict[str, Any]) -> None:
    """Print the table of step times."""
    table = Table("ms per step", *("{}x{}".format(*size) for size in step.SIZES))
    for name, row in figures.items():
        if name.startswith(("ms, ", "floor")) and "error" not in row:
            cells = (row.get("{}x{}".format(*size)) for size in step.SIZES)
            table.add_row(name.removeprefix("ms, "), *("" if cell is None else f"{cell:.1f}" for cell in cells))
    _console.print(table)


if __name__ == "__main__":
    main()
