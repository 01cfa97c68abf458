"""The transformer's training set: a pool of scenes that are encoded once, with their captions as token ids."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

import torch

from training import distributed
from training.captions import vocabulary
from training.captions.sampling import sample_tokens
from training.drawings.compose import Composer
from training.models.autoencoder import standardized_latents
from training.models.flux import pack_latents

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from torch import Tensor

    from training.config import Config
    from training.drawings.dataset import Drawings

CHUNK = 4096  # scenes per task of a worker process


@dataclass
class Pool:
    """Standardized latents, packed into image tokens, and the token ids of their captions."""

    latents: Tensor  # (scenes, tokens, 64), fp16
    token_ids: Tensor  # (scenes, captions, max_tokens), int16

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Return random latents (size, tokens, 64), each with one of its captions (size, max_tokens)."""
        device = self.latents.device
        index = torch.randint(len(self.latents), (size,), device=device)
        caption = torch.randint(self.token_ids.shape[1], (size,), device=device)
        return self.latents[index].float(), self.token_ids[index, caption].long()


def build(config: Config, drawings: Drawings, vae: AutoencoderKL, device: torch.device, seed: int) -> Pool:
    """Sample scenes on all cores, and compose and encode them until the pool is full or `pool_seconds` have passed."""
    words = vocabulary.vocabulary(drawings.names)
    colours = drawings.colour_names()
    chunk = min(CHUNK, config.pool_scenes)
    count = config.pool_scenes // chunk
    latents = torch.empty(count * chunk, config.tokens_per_side**2, 64, dtype=torch.float16, device=device)
    token_ids = torch.empty(
        count * chunk, config.captions_per_scene, config.max_tokens, dtype=torch.int16, device=device
    )
    shape = (chunk, config.captions_per_scene, config.max_tokens)
    composer = Composer(drawings, device)
    vae = vae.to(memory_format=torch.channels_last)
    filled, start = 0, time.monotonic()
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as workers:
        first_seed = (seed + 1) * 1_000_000 + distributed.rank() * 100_000
        jobs = [
            workers.submit(sample_tokens, drawings.names, colours, words, first_seed + number, shape)
            for number in range(count)
        ]
        for job in as_completed(jobs):
            rows, chunk_ids = job.result()
            start = start if filled else time.monotonic()
            for offset in range(0, chunk, config.pool_batch):
                part = torch.from_numpy(rows[offset : offset + config.pool_batch]).to(device)
                latents[filled + offset : filled + offset + len(part)] = pack_latents(
                    standardized_latents(vae, composer(part))
                )
            token_ids[filled : filled + chunk] = torch.from_numpy(chunk_ids).to(device)
            filled += chunk
            if time.monotonic() - start > config.pool_seconds:
                workers.shutdown(wait=False, cancel_futures=True)
                break
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = max(1e-3, time.monotonic() - start)
    print(f"pool: {filled} scenes, {filled / seconds:.0f} scenes/s", flush=True)
    return Pool(latents[:filled], token_ids[:filled])
