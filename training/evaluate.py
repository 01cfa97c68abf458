"""What the exported model draws, measured: the thing named, the background asked for, steps and seeds.

`python -m training.evaluate [--folder FOLDER]`, a few minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from training import classifier, report
from training import drawings as drawn
from training.config import FULL
from training.palette import COLOURS
from training.prompts import Prompt, named, unseen

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from training.drawings import Drawings


def measure(
    pipeline: Any,
    about: dict[str, Any],
    judge: classifier.Classifier,
    drawings: Drawings,
    *,
    steps: int = 10,
    count: tuple[int, int] = (240, 100),
) -> dict[str, float]:
    """Shares of: the named thing first or among the first five, and backgrounds of the colour asked for."""
    figures: dict[str, float] = {}
    for label, prompts in (("named", named(drawings, count[0])), ("unseen", unseen(drawings, count[1]))):
        pictures = report.draw(
            pipeline, about, [prompt.text for prompt in prompts], list(range(len(prompts))), steps=steps
        )
        ranks = [_rank(scores, prompt) for scores, prompt in zip(_scores(judge, pictures), prompts, strict=True)]
        figures[f"{label}_top1"] = float(np.mean([rank < 1 for rank in ranks]))
        figures[f"{label}_top5"] = float(np.mean([rank < 5 for rank in ranks]))
        asked = [
            (picture, prompt.background) for picture, prompt in zip(pictures, prompts, strict=True) if prompt.background
        ]
        figures[f"{label}_background"] = float(np.mean([background(picture) == colour for picture, colour in asked]))
    return figures


def behaviour(pipeline: Any, about: dict[str, Any]) -> dict[str, float]:
    """Mean absolute distances (of 255) between pictures of the same prompts with other steps, seeds and guidance."""
    prompts = [
        "a red apple",
        "a cat",
        "a rocket at night",
        "a green frog on a pink background",
        "a castle",
        "a sad face",
    ]
    seeds = list(range(len(prompts)))

    def drawing(steps: int = 10, guidance: float = 7.5, other: int = 0) -> Any:
        pictures = report.draw(
            pipeline, about, prompts, [seed + other for seed in seeds], steps=steps, guidance=guidance
        )
        return np.stack([np.asarray(picture, np.float32) for picture in pictures])

    best, usual = drawing(steps=50), drawing()
    return {f"to_50_steps_from_{steps}": float(np.abs(drawing(steps=steps) - best).mean()) for steps in (4, 10, 20)} | {
        "same_seed": float(np.abs(drawing() - usual).mean()),
        "other_seed": float(np.abs(drawing(other=100) - usual).mean()),
        "guidance_1": float(np.abs(drawing(guidance=1.0) - usual).mean()),
        "guidance_3.5": float(np.abs(drawing(guidance=3.5) - usual).mean()),
    }


def background(picture: Image.Image) -> str:
    """The plain colour nearest to most of a picture's rim."""
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    edge = max(2, pixels.shape[0] // 24)
    rim = np.concatenate(
        [side.reshape(-1, 3) for side in (pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:])]
    )
    middle = np.median(rim, axis=0)
    plain = [name for name in COLOURS if " " not in name]
    return min(plain, key=lambda name: float(np.abs(middle - COLOURS[name].rgb).sum()))


@torch.no_grad()
def _scores(judge: classifier.Classifier, pictures: list[Image.Image]) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(picture.convert("RGB")) for picture in pictures]))
    scores: Tensor = judge(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    return scores


def _rank(scores: Tensor, prompt: Prompt) -> int:
    """How many drawings fit better than the best of those that were asked for."""
    return int((scores > scores[list(prompt.accepted)].max()).sum())


def main() -> None:
    """Print the figures of an exported folder, and write them where `--json` says."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--folder", type=Path, default=report.FOLDER)
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings.zip"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.drawings.exists():
        drawn.build(options.drawings)
    drawings = drawn.load(options.drawings, FULL.size)
    pipeline, about = report.load(options.folder)
    figures = measure(pipeline, about, classifier.load(FULL, drawings), drawings, steps=options.steps)
    for name, share in figures.items():
        print(f"{name:24} {share:6.1%}")
    distances = behaviour(pipeline, about)
    for name, distance in distances.items():
        print(f"{name:24} {distance:6.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures | distances, indent=2) + "\n")


if __name__ == "__main__":
    main()
