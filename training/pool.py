"""A pool of scenes encoded once, with their captions as tokens: what the transformer is trained on."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

import torch

from training import machine, scenes, vocabulary
from training.autoencoder import encode
from training.compose import Composer
from training.think import think

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from torch import Tensor

    from training.config import Config
    from training.drawings import Drawings

CHUNK = 4096  # scenes that one process thinks up at a time


@dataclass
class Pool:
    """Standardised latents, packed 2x2 into tokens, and captions."""

    latents: Tensor  # (scenes, tokens, 64), fp16
    words: Tensor  # (scenes, captions, max_words), int16

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Random latents (size, tokens, 64) with one of their captions each (size, max_words)."""
        device = self.latents.device
        index = torch.randint(len(self.latents), (size,), device=device)
        which = torch.randint(self.words.shape[1], (size,), device=device)
        return self.latents[index].float(), self.words[index, which].long()


def build(config: Config, drawings: Drawings, vae: AutoencoderKL, device: torch.device, seed: int) -> Pool:
    """Think up scenes on all cores, compose and encode them as they come, until the pool is full or the time is up."""
    words = vocabulary.vocabulary(drawings.names)
    own = scenes.Writer.of(drawings, 0).own_colours
    chunk = min(CHUNK, config.pool_scenes)
    count = config.pool_scenes // chunk
    latents = torch.empty(count * chunk, config.tokens**2, 64, dtype=torch.float16, device=device)
    ids = torch.empty(count * chunk, config.captions_per_scene, config.max_words, dtype=torch.int16, device=device)
    size = (chunk, config.captions_per_scene, config.max_words)
    composer = Composer(drawings, device)
    vae = vae.to(memory_format=torch.channels_last)
    filled, start = 0, time.monotonic()
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as workers:
        first_seed = (seed + 1) * 1_000_000 + machine.rank() * 100_000
        jobs = [workers.submit(think, drawings.names, own, words, first_seed + number, size) for number in range(count)]
        for job in as_completed(jobs):
            rows, tokens = job.result()
            start = start if filled else time.monotonic()
            for at in range(0, chunk, config.pool_batch):
                part = torch.from_numpy(rows[at : at + config.pool_batch]).to(device)
                latents[filled + at : filled + at + len(part)] = packed(standardised(vae, composer(part)))
            ids[filled : filled + chunk] = torch.from_numpy(tokens).to(device)
            filled += chunk
            if time.monotonic() - start > config.pool_seconds:
                workers.shutdown(wait=False, cancel_futures=True)
                break
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = max(1e-3, time.monotonic() - start)
    print(f"pool: {filled} scenes, {filled / seconds:.0f} a second", flush=True)
    return Pool(latents[:filled], ids[:filled])


def standardised(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] -> latents with mean 0 and deviation 1."""
    latents: Tensor = (encode(vae, pictures) - vae.config.shift_factor) * vae.config.scaling_factor
    return latents


def packed(latents: Tensor) -> Tensor:
    """(batch, 16, height, width) -> (batch, height * width / 4, 64), in FLUX's order."""
    batch, channels, height, width = latents.shape
    latents = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return latents.reshape(batch, height * width // 4, channels * 4)


def unpacked(tokens: Tensor, side: int) -> Tensor:
    """The way back: (batch, side * side, 64) -> (batch, 16, 2 * side, 2 * side)."""
    batch = len(tokens)
    latents = tokens.view(batch, side, side, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return latents.reshape(batch, 16, 2 * side, 2 * side)
