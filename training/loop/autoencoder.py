"""Autoencoder training: crops of composed scenes, with an L1 loss on colours and edges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from training import distributed
from training.captions.scenes import sample_scenes
from training.checkpoints import load_state, read_progress, save_state, write_progress
from training.drawings.compose import Composer
from training.loop.clock import Clock, Log, linear_decay
from training.loop.optim import EMA, MuonAdamW
from training.models.autoencoder import NAME, build, encode

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from torch import Tensor

    from training.config import Config
    from training.drawings.dataset import Drawings


class Objective(nn.Module):
    """The loss and the mean absolute error of a batch of images.

    The posterior's variance is fixed: every latent gets noise of the same standard deviation, and a KL term keeps the
    means small. A learnt variance starts too large, and training needs a minute to reduce it.
    """

    def __init__(self, vae: AutoencoderKL, config: Config) -> None:
        super().__init__()
        self.vae, self.kl_weight, self.noise = vae, config.kl_weight, config.latent_noise

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encode, add noise, decode and compare."""
        mean = self.vae.encoder(images).float().chunk(2, 1)[0]
        decoded = self.vae.decoder(mean + self.noise * torch.randn_like(mean)).float()
        images = images.float()
        error = (decoded - images).abs().mean()
        kl = 0.5 * mean.square().mean()
        return error + 0.5 * edge_loss(decoded, images) + self.kl_weight * kl, error


def edge_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Return the L1 distance between the differences of neighbouring pixels; it keeps outlines sharp."""
    difference = decoded - images
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    return across + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()


@torch.no_grad()
def zero_variance(vae: AutoencoderKL) -> None:
    """Make the encoder predict a variance near zero: diffusers samples from the posterior when it encodes."""
    last = vae.encoder.conv_out
    last.weight[len(last.weight) // 2 :] = 0
    last.bias[len(last.bias) // 2 :] = -14


def train(config: Config, drawings: Drawings, device: torch.device, deadline: float) -> AutoencoderKL:
    """Train the autoencoder, resume its training, or load it if its training is complete."""
    folder = config.run
    torch.manual_seed(config.seed + 1000 * distributed.rank())
    progress = read_progress(folder, NAME)
    vae = build(config, progress.get("scaling", 1.0), progress.get("shift", 0.0)).to(device)
    if progress:
        load_state(vae, folder / f"{NAME}.safetensors")
    clock = Clock(NAME, config.vae_minutes, progress.get("spent", 0.0), deadline)
    if clock.expired:
        return vae.eval()
    distributed.broadcast_weights(vae)
    vae = vae.to(memory_format=torch.channels_last)
    rows, _ = sample_scenes(drawings.names, drawings.colour_names(), config.seed, config.vae_scenes, 0)
    scenes = torch.from_numpy(rows).to(device)
    composer = Composer(drawings, device)
    objective = Objective(vae, config)
    step_loss = torch.compile(objective) if config.compile else objective
    outer = ("conv_in", "conv_out")
    optimizer = MuonAdamW(vae, config.vae_muon_rate, config.vae_adam_rate, outer)
    ema = EMA(vae, config.ema)
    log = Log(folder / "log.jsonl")
    step, seen = 0, 0
    while True:
        images = _random_crops(composer, scenes, config)
        with distributed.autocast(device):
            loss, error = step_loss(images)
        loss.backward()
        distributed.average_gradients(optimizer.parameters)
        scale = min(1.0, (step + 1) / config.warmup) * linear_decay(clock.progress, config.decay_from)
        optimizer.step(scale)
        ema.update()
        step, seen = step + 1, seen + len(images) * distributed.world_size()
        if step == 1:
            clock.restart()
        if step % 20 == 0 or device.type == "cpu":
            stop = distributed.broadcast_bool(clock.expired, device)
            if clock.due() or stop:
                _report(clock, log, float(loss.detach()), float(error.detach()), seen)
            if stop:
                break
    ema.swap()
    zero_variance(vae)
    vae.eval()
    shift, scaling = latent_statistics(vae, composer, scenes, config)
    vae.register_to_config(scaling_factor=scaling, shift_factor=shift)
    if distributed.rank() == 0:
        save_state(dict(vae.named_parameters()), folder / f"{NAME}.safetensors")
        write_progress(folder, NAME, spent=clock.spent, scaling=scaling, shift=shift)
    distributed.barrier()
    return vae


def _report(clock: Clock, log: Log, loss: float, error: float, seen: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(f"The autoencoder's loss is {loss} after {seen} crops. Lower its learning rates.")
    rate = seen / max(1e-3, clock.spent - clock.spent_before)
    clock.print_line(f"loss {loss:.4f}  error {error:.4f}  {rate:.0f} crops/s")
    log.add(stage=NAME, seconds=clock.spent, loss=loss, error=error, rate=rate)


def _random_crops(composer: Composer, scenes: Tensor, config: Config) -> Tensor:
    """Return a batch of crops, several from each scene, so that composing is cheap."""
    crops_per_scene = (config.size // config.vae_crop) ** 2
    picked = torch.randint(len(scenes), (max(1, config.vae_batch // crops_per_scene),), device=scenes.device)
    images = composer(scenes[picked])
    left, top = torch.randint(0, config.vae_crop // 2 + 1, (2,)).tolist() if crops_per_scene > 1 else (0, 0)
    images = torch.roll(images, (-top, -left), (2, 3))
    tiles = F.unfold(images, config.vae_crop, stride=config.vae_crop).transpose(1, 2)
    tiles = tiles.reshape(-1, 3, config.vae_crop, config.vae_crop)
    return tiles.to(memory_format=torch.channels_last)


@torch.no_grad()
def latent_statistics(vae: AutoencoderKL, composer: Composer, scenes: Tensor, config: Config) -> tuple[float, float]:
    """Return the shift and scaling that give latents mean 0 and standard deviation 1, as diffusers applies them."""
    latents = encode(vae, composer(scenes[: min(len(scenes), config.pool_batch)]))
    return float(latents.mean()), float(1 / latents.std())
