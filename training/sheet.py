"""Pictures of a training: sample sheets and loss curves, written at the end of every run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw

from training import vocabulary
from training.autoencoder import decode, encode
from training.compose import Composer
from training.model import draw
from training.pool import packed, unpacked
from training.prompts import SHEET
from training.scenes import think_up

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import AutoencoderKL
    from torch import Tensor

    from training.config import Config
    from training.drawings import Drawings
    from training.model import Painter

CELL, CAPTION = 160, 26


def grid(pictures: list[Image.Image], captions: list[str], columns: int) -> Image.Image:
    """Pictures with captions below them, row by row."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * CELL, rows * (CELL + CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = index % columns * CELL, index // columns * (CELL + CAPTION)
        sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y))
        lines = _wrapped(caption)
        pen.multiline_text(
            (x + CELL / 2, y + CELL + 1), lines, fill="black", anchor="ma", align="center", spacing=1, font_size=9
        )
    return sheet


def samples(config: Config, drawings: Drawings, model: Painter, vae: AutoencoderKL, *, distilled: bool) -> Image.Image:
    """The contact sheet's prompts; before distillation a quarter of them, at four scales of guidance."""
    prompts = list(SHEET)
    scales: list[float | None] = [None] if distilled else [1.0, 2.0, 3.3, 5.0]
    prompts = prompts if distilled else prompts[::4]
    pictures: list[Image.Image] = []
    for scale in scales:
        pictures += draw_prompts(config, drawings, model, vae, prompts, scale=scale)
    captions = [text if scale is None else f"{scale}: {text}" for scale in scales for text in prompts]
    return grid(pictures, captions, 8)


def draw_prompts(
    config: Config,
    drawings: Drawings,
    model: Painter,
    vae: AutoencoderKL,
    prompts: list[str],
    *,
    scale: float | None = None,
    steps: int = 20,
) -> list[Image.Image]:
    """Draw prompts on the device the model is on; seed i for prompt i."""
    device = next(model.parameters()).device
    words = vocabulary.encode(vocabulary.vocabulary(drawings.names), prompts, config.max_words)
    shape = (1, 16, 2 * config.tokens, 2 * config.tokens)
    noises = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(len(prompts))]
    tokens = draw(
        model,
        torch.from_numpy(words).long().to(device),
        packed(torch.cat(noises)).to(device),
        steps=steps,
        shift=config.scheduler_shift,
        guidance=7.5,
        scale=scale,
    )
    return images(decode(vae, unpacked(tokens, config.tokens)))


def reconstructions(config: Config, drawings: Drawings, vae: AutoencoderKL, device: torch.device) -> Image.Image:
    """Scenes above, what the autoencoder makes of them below."""
    rows, texts = think_up(drawings.names, [None] * len(drawings), 99, 16, 1)
    pictures = Composer(drawings, device)(torch.from_numpy(rows)).float()
    latents = (encode(vae, pictures) - vae.config.shift_factor) * vae.config.scaling_factor
    drawn = decode(vae, latents)
    both = [images(pictures / 2 + 0.5), images(drawn)]
    cells = [picture for at in (0, 8) for side in both for picture in side[at : at + 8]]
    captions = [
        text for at in (0, 8) for label in ("", "again: ") for text in [label + t[0] for t in texts[at : at + 8]]
    ]
    return grid(cells, captions, 8)


def images(pictures: Tensor) -> list[Image.Image]:
    """(batch, 3, height, width) in [0, 1] -> images."""
    pixels = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(each) for each in pixels]


def curves(log: Path, target: Path) -> None:
    """The losses of all stages over their seconds."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    figure, axes = plt.subplots(1, len(stages), figsize=(5 * len(stages), 3.5), squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=True):
        points = [(line["seconds"] / 60, line["loss"]) for line in lines if line["stage"] == stage]
        axis.plot(*zip(*points, strict=True))
        axis.set(title=stage, xlabel="minutes", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    plt.close(figure)


def _wrapped(caption: str, width: int = 34) -> str:
    lines = [""]
    for word in caption.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:2])
