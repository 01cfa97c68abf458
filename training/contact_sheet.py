"""Images of a training run: contact sheets, reconstructions and loss curves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw

from training.captions import vocabulary
from training.captions.prompts import SHEET
from training.captions.scenes import sample_scenes
from training.drawings.compose import Composer
from training.models.autoencoder import decode, standardized_latents
from training.models.flux import pack_latents, sample, unpack_latents

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import AutoencoderKL
    from torch import Tensor

    from training.config import Config
    from training.drawings.dataset import Drawings
    from training.models.flux import FluxWithEncoders

CELL, CAPTION = 160, 26  # pixels: side of an image, height of its caption


def grid(images: list[Image.Image], captions: list[str], columns: int) -> Image.Image:
    """Arrange images row by row, each with its caption below."""
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * CELL, rows * (CELL + CAPTION)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = index % columns * CELL, index // columns * (CELL + CAPTION)
        sheet.paste(image.resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y))
        lines = _wrap(caption)
        pen.multiline_text(
            (x + CELL / 2, y + CELL + 1), lines, fill="black", anchor="ma", align="center", spacing=1, font_size=9
        )
    return sheet


def sample_sheet(
    config: Config, drawings: Drawings, model: FluxWithEncoders, vae: AutoencoderKL, *, distilled: bool
) -> Image.Image:
    """Draw the prompts of the contact sheet; before distillation, a quarter of them at four guidance scales."""
    prompts = list(SHEET)
    scales: list[float | None] = [None] if distilled else [1.0, 2.0, 3.3, 5.0]
    prompts = prompts if distilled else prompts[::4]
    images: list[Image.Image] = []
    for scale in scales:
        images += draw_prompts(config, drawings, model, vae, prompts, scale=scale)
    captions = [text if scale is None else f"{scale}: {text}" for scale in scales for text in prompts]
    return grid(images, captions, 8)


def draw_prompts(
    config: Config,
    drawings: Drawings,
    model: FluxWithEncoders,
    vae: AutoencoderKL,
    prompts: list[str],
    *,
    scale: float | None = None,
    steps: int = 20,
) -> list[Image.Image]:
    """Draw prompts with the training model, prompt i with seed i."""
    device = next(model.parameters()).device
    token_ids = vocabulary.encode(vocabulary.vocabulary(drawings.names), prompts, config.max_tokens)
    shape = (1, 16, 2 * config.tokens_per_side, 2 * config.tokens_per_side)
    noises = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(len(prompts))]
    tokens = sample(
        model,
        torch.from_numpy(token_ids).long().to(device),
        pack_latents(torch.cat(noises)).to(device),
        steps=steps,
        shift=config.scheduler_shift,
        guidance=7.5,
        scale=scale,
    )
    return to_images(decode(vae, unpack_latents(tokens, config.tokens_per_side)))


def reconstructions(config: Config, drawings: Drawings, vae: AutoencoderKL, device: torch.device) -> Image.Image:
    """Draw rows of scenes, each above a row with their reconstructions by the autoencoder."""
    rows, texts = sample_scenes(drawings.names, [None] * len(drawings), 99, 16, 1)
    scenes = Composer(drawings, device)(torch.from_numpy(rows)).float()
    decoded = decode(vae, standardized_latents(vae, scenes))
    both = [to_images(scenes / 2 + 0.5), to_images(decoded)]
    cells = [image for start in (0, 8) for images in both for image in images[start : start + 8]]
    captions = [
        label + text for start in (0, 8) for label in ("", "decoded: ") for text, *_ in texts[start : start + 8]
    ]
    return grid(cells, captions, 8)


def to_images(batch: Tensor) -> list[Image.Image]:
    """Convert (batch, 3, height, width) in [0, 1] to images."""
    pixels = (batch.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(each) for each in pixels]


def plot_losses(log: Path, target: Path) -> None:
    """Plot the loss of each stage over time."""
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


def _wrap(caption: str, width: int = 34) -> str:
    lines = [""]
    for word in caption.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:2])
