"""Draw the contact sheet: 64 fixed prompts with an exported pipeline, prompt i with seed i, no selection.

`python -m training.report [FOLDER] [IMAGE]`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training.captions.prompts import SHEET
from training.contact_sheet import grid

if TYPE_CHECKING:
    from PIL import Image

FOLDER, IMAGE = Path("src/imagegen/bundled"), Path("docs/bundled.png")


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Load an exported pipeline in float32, and its `imagegen.json`."""
    import json

    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if torch.cuda.is_available():
        pipeline.to("cuda")
    return pipeline, json.loads((folder / "imagegen.json").read_text())


def draw(
    pipeline: Any,
    metadata: dict[str, Any],
    prompts: list[str],
    seeds: list[int],
    *,
    steps: int = 10,
    guidance: float = 7.5,
    batch: int = 16,
) -> list[Image.Image]:
    """Draw prompts in batches, each prompt with its own seed."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), batch):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch]]
        images += pipeline(
            prompts[start : start + batch],
            height=metadata["native_size"],
            width=metadata["native_size"],
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=metadata["max_sequence_length"],
            generator=generators,
        ).images
    return images


def write(folder: Path = FOLDER, target: Path = IMAGE) -> None:
    """Draw the contact sheet with the pipeline in `folder`, and save it to `target`."""
    pipeline, metadata = load(folder)
    images = draw(pipeline, metadata, list(SHEET), list(range(len(SHEET))), steps=20)
    target.parent.mkdir(parents=True, exist_ok=True)
    captions = [f"{text} ({seed})" for seed, text in enumerate(SHEET)]
    grid(images, captions, 8).quantize(256).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
