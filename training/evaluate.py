"""Evaluate an exported model: prompt adherence, background colours, and the effect of steps, seeds and guidance.

`python -m training.evaluate [--folder FOLDER]` takes a few minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks import results
from training import report
from training.captions.palette import COLOURS
from training.captions.prompts import Prompt, plain_prompts, unseen_prompts
from training.config import FULL
from training.drawings import dataset
from training.models import classifier

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from training.drawings.dataset import Drawings


def measure(
    pipeline: Any,
    metadata: dict[str, Any],
    model: classifier.Classifier,
    drawings: Drawings,
    *,
    steps: int = 10,
    count: tuple[int, int] = (240, 100),
) -> dict[str, float]:
    """Return top-1 and top-5 accuracy of the classifier on generated images, and the share of correct backgrounds."""
    figures: dict[str, float] = {}
    for label, prompts in (
        ("named", plain_prompts(drawings, count[0])),
        ("unseen", unseen_prompts(drawings, count[1])),
    ):
        images = report.draw(
            pipeline, metadata, [prompt.text for prompt in prompts], list(range(len(prompts))), steps=steps
        )
        ranks = [_rank(scores, prompt) for scores, prompt in zip(_scores(model, images), prompts, strict=True)]
        figures[f"{label}_top1"] = float(np.mean([rank < 1 for rank in ranks]))
        figures[f"{label}_top5"] = float(np.mean([rank < 5 for rank in ranks]))
        matches = [
            background_colour(image) == prompt.background
            for image, prompt in zip(images, prompts, strict=True)
            if prompt.background
        ]
        figures[f"{label}_background"] = float(np.mean(matches))
    return figures


def setting_effects(pipeline: Any, metadata: dict[str, Any]) -> dict[str, float]:
    """Return mean absolute distances (0 to 255) between images of the same prompts with other settings."""
    prompts = [
        "a red apple",
        "a cat",
        "a rocket at night",
        "a green frog on a pink background",
        "a castle",
        "a sad face",
    ]
    seeds = list(range(len(prompts)))

    def pixels(steps: int = 10, guidance: float = 7.5, seed_offset: int = 0) -> Any:
        images = report.draw(
            pipeline, metadata, prompts, [seed + seed_offset for seed in seeds], steps=steps, guidance=guidance
        )
        return np.stack([np.asarray(image, np.float32) for image in images])

    best, default = pixels(steps=50), pixels()
    return {f"to_50_steps_from_{steps}": float(np.abs(pixels(steps=steps) - best).mean()) for steps in (4, 10, 20)} | {
        "same_seed": float(np.abs(pixels() - default).mean()),
        "other_seed": float(np.abs(pixels(seed_offset=100) - default).mean()),
        "guidance_1": float(np.abs(pixels(guidance=1.0) - default).mean()),
        "guidance_3.5": float(np.abs(pixels(guidance=3.5) - default).mean()),
    }


def background_colour(image: Image.Image) -> str:
    """Return the name of the colour nearest to the median colour of an image's border."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    edge = max(2, pixels.shape[0] // 24)
    border = np.concatenate(
        [side.reshape(-1, 3) for side in (pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:])]
    )
    median = np.median(border, axis=0)
    names = [name for name in COLOURS if " " not in name]
    return min(names, key=lambda name: float(np.abs(median - COLOURS[name].rgb).sum()))


@torch.no_grad()
def _scores(model: classifier.Classifier, images: list[Image.Image]) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    scores: Tensor = model(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    return scores


def _rank(scores: Tensor, prompt: Prompt) -> int:
    """Return the number of drawings with a higher score than the best correct drawing."""
    return int((scores > scores[list(prompt.correct)].max()).sum())


def main() -> None:
    """Print the results for an exported folder, and write them to the file of `--json`."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--folder", type=Path, default=report.FOLDER)
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings.zip"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.drawings.exists():
        dataset.download(options.drawings)
    drawings = dataset.read(options.drawings, FULL.size)
    pipeline, metadata = report.load(options.folder)
    figures = measure(pipeline, metadata, classifier.load(FULL, drawings), drawings, steps=options.steps)
    for name, share in figures.items():
        print(f"{name:24} {share:6.1%}")
    distances = setting_effects(pipeline, metadata)
    for name, distance in distances.items():
        print(f"{name:24} {distance:6.2f}")
    if options.json:
        results.write(options.json, {**results.provenance(), "figures": figures | distances})


if __name__ == "__main__":
    main()
