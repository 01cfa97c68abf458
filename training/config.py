"""All hyperparameters. FULL is the recipe of the bundled model's last run; SMOKE takes seconds and is for tests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# npm packages: the drawings (MIT) as SVG, and the renderer.
DRAWINGS_PACKAGE = "@iconify-json/fluent-emoji-flat@1.2.6"
RENDERER_PACKAGE = "@resvg/resvg-js@2.6.2"


@dataclass(frozen=True)
class Config:
    """The hyperparameters. Times are wall-clock times on the training machine."""

    run: Path = Path("runs/bundled")  # folder of checkpoints, logs and samples
    seed: int = 0
    size: int = 256  # pixels per side, of drawings and images
    max_tokens: int = 32  # tokens per caption, including special tokens

    # autoencoder: 8x down, 16 channels
    vae_widths: tuple[int, ...] = (32, 64, 80, 80)
    vae_groups: int = 8
    vae_minutes: float = 2.6
    vae_batch: int = 192
    vae_crop: int = 128
    vae_scenes: int = 30_000
    vae_muon_rate: float = 0.02
    vae_adam_rate: float = 2e-3
    kl_weight: float = 3e-4
    latent_noise: float = 0.1

    # pool: scenes are encoded once, before the transformer is trained
    pool_scenes: int = 400_000
    pool_seconds: float = 40.0
    pool_batch: int = 512
    captions_per_scene: int = 3

    # text encoders and transformer
    t5_width: int = 128
    t5_layers: int = 2
    clip_width: int = 96
    clip_layers: int = 1
    heads: int = 4
    head_width: int = 64
    rope_axes: tuple[int, int, int] = (16, 24, 24)
    double_blocks: int = 1
    single_blocks: int = 6

    # flow matching, followed by guidance distillation
    minutes: float = 36.8
    batch: int = 1024
    muon_rate: float = 0.015
    adam_rate: float = 2e-3
    warmup: int = 200  # steps
    decay_from: float = 0.45  # share of each stage after which the learning rate decays linearly
    ema: float = 0.998
    caption_dropout: float = 0.1
    noise_mean: float = 0.4  # of the logit-normal distribution of noise levels (> 0: more noise)
    noise_std: float = 1.1
    distill_share: float = 0.084  # of `minutes`
    distill_rate: float = 0.4  # factor of the learning rates above
    guidance_range: tuple[float, float] = (1.0, 10.0)
    guidance_strength: float = 0.35  # classifier-free scale 1 + strength * (guidance - 1): 7.5 means 3.3
    long_every: int = 16  # distillation steps between two with long padding, diffusers' default
    long_lengths: tuple[int, ...] = (128, 512)

    # scheduler of the exported pipeline
    scheduler_shift: float = 2.0

    # classifier of the evaluation
    classifier_minutes: float = 0.8
    classifier_size: int = 64
    classifier_batch: int = 1024
    classifier_widths: tuple[int, ...] = (32, 64, 128, 192)

    workers: int = max(1, (os.cpu_count() or 2) - 2)  # processes that sample scenes
    compile: bool = True

    @property
    def width(self) -> int:
        """Width of the transformer."""
        return self.heads * self.head_width

    @property
    def tokens_per_side(self) -> int:
        """Image tokens per side: the autoencoder reduces the size 8x, packing 2x."""
        return self.size // 16


FULL = Config()

SMOKE = Config(
    run=Path("runs/smoke"),
    size=64,
    max_tokens=16,
    vae_widths=(8, 16, 16, 16),
    vae_minutes=0.03,
    vae_batch=8,
    vae_crop=64,
    vae_scenes=64,
    pool_scenes=256,
    pool_seconds=5.0,
    pool_batch=32,
    t5_width=32,
    t5_layers=1,
    clip_width=32,
    clip_layers=1,
    heads=2,
    head_width=16,
    rope_axes=(4, 6, 6),
    single_blocks=1,
    minutes=0.07,
    batch=16,
    warmup=10,
    ema=0.9,
    long_every=4,
    long_lengths=(24, 32),
    classifier_minutes=0.02,
    classifier_size=32,
    classifier_batch=16,
    classifier_widths=(8, 16, 16, 16),
    workers=1,
    compile=False,
)
