"""The contact sheet: 8x8 prompts drawn by the exported pipeline, prompt i with seed i; nothing is left out.

`python -m training.report [FOLDER] [PICTURE]`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training.prompts import SHEET
from training.sheet import grid

if TYPE_CHECKING:
    from PIL import Image

FOLDER, PICTURE = Path("src/imagegen/bundled"), Path("docs/bundled.png")


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """An exported pipeline in full precision, and what its `imagegen.json` says."""
    import json

    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if torch.cuda.is_available():
        pipeline.to("cuda")
    return pipeline, json.loads((folder / "imagegen.json").read_text())


def draw(
    pipeline: Any,
    about: dict[str, Any],
    prompts: list[str],
    seeds: list[int],
    *,
    steps: int = 10,
    guidance: float = 7.5,
    batch: int = 16,
) -> list[Image.Image]:
    """Draw prompts in batches, each with its own seed."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch]]
        pictures += pipeline(
            prompts[start : start + batch],
            height=about["native_size"],
            width=about["native_size"],
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=about["max_sequence_length"],
            generator=generators,
        ).images
    return pictures


def write(folder: Path = FOLDER, target: Path = PICTURE) -> None:
    """Draw the contact sheet."""
    pipeline, about = load(folder)
    pictures = draw(pipeline, about, list(SHEET), list(range(len(SHEET))), steps=20)
    target.parent.mkdir(parents=True, exist_ok=True)
    captions = [f"{text} ({seed})" for seed, text in enumerate(SHEET)]
    grid(pictures, captions, 8).quantize(256).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
