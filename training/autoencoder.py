"""The autoencoder: 8x down, 16 channels, trained on crops of composed scenes with an L1 loss on colours and edges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional as F

from training import machine, scenes
from training.clock import Clock, Log, falling
from training.compose import Composer
from training.optim import Average, Mixed
from training.storage import load_state, read_progress, save_state, write_progress

if TYPE_CHECKING:
    from torch import Tensor

    from training.config import Config
    from training.drawings import Drawings

NAME = "autoencoder"


def build(config: Config, scaling: float = 1.0, shift: float = 0.0) -> AutoencoderKL:
    """An autoencoder as diffusers knows it; `scaling` and `shift` standardise its latents."""
    levels = len(config.vae_widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.vae_widths,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=config.vae_groups,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=config.size,
        scaling_factor=scaling,
        shift_factor=shift,
        force_upcast=False,
    )


class Objective(nn.Module):
    """A batch of pictures in, the loss and the mean absolute error out.

    The posterior's variance is fixed: noise of one size on every latent, and a pull on the means so that they cannot
    outgrow it. A learnt variance starts by drowning the pictures, and costs a minute to unlearn.
    """

    def __init__(self, vae: AutoencoderKL, config: Config) -> None:
        super().__init__()
        self.vae, self.kl_weight, self.noise = vae, config.kl_weight, config.latent_noise

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Encode, sample, decode, compare."""
        mean = self.vae.encoder(pictures).float().chunk(2, 1)[0]
        drawn = self.vae.decoder(mean + self.noise * torch.randn_like(mean)).float()
        pictures = pictures.float()
        error = (drawn - pictures).abs().mean()
        size = 0.5 * mean.square().mean()
        return error + 0.5 * edges(drawn, pictures) + self.kl_weight * size, error


@torch.no_grad()
def settle_variance(vae: AutoencoderKL) -> None:
    """Make the encoder say that its latents are certain: diffusers draws from the posterior when it encodes."""
    last = vae.encoder.conv_out
    last.weight[len(last.weight) // 2 :] = 0
    last.bias[len(last.bias) // 2 :] = -14


def edges(drawn: Tensor, pictures: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels, so that outlines stay sharp."""
    difference = drawn - pictures
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    return across + (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()


def train(config: Config, drawings: Drawings, device: torch.device, deadline: float) -> AutoencoderKL:
    """Train, or go on training, or just load what is finished."""
    folder = config.run
    torch.manual_seed(config.seed + 1000 * machine.rank())
    done = read_progress(folder, NAME)
    vae = build(config, done.get("scaling", 1.0), done.get("shift", 0.0)).to(device)
    if done:
        load_state(vae, folder / f"{NAME}.safetensors")
    clock = Clock(NAME, config.vae_minutes, done.get("spent", 0.0), deadline)
    if clock.over:
        return vae.eval()
    machine.same_weights(vae)
    vae = vae.to(memory_format=torch.channels_last)
    names, own = drawings.names, scenes.Writer.of(drawings, 0).own_colours
    rows = torch.from_numpy(scenes.think_up(names, own, config.seed, config.vae_scenes, 0)[0]).to(device)
    composer = Composer(drawings, device)
    objective = Objective(vae, config)
    step_loss = torch.compile(objective) if config.compile else objective
    outer = ("conv_in", "conv_out")
    optimizer = Mixed(vae, config.vae_muon_rate, config.vae_adam_rate, outer)
    average = Average(vae, config.ema)
    log = Log(folder / "log.jsonl")
    step, seen = 0, 0
    while True:
        pictures = _crops(composer, rows, config)
        with machine.half(device):
            loss, error = step_loss(pictures)
        loss.backward()
        machine.share_gradients(optimizer.parameters)
        scale = min(1.0, (step + 1) / config.warmup) * falling(clock.progress, config.decay_from)
        optimizer.step(scale)
        average.update()
        step, seen = step + 1, seen + len(pictures) * machine.world()
        if step == 1:
            clock.restart()
        if step % 20 == 0 or device.type == "cpu":
            over = machine.agreed(clock.over, device)
            if clock.due() or over:
                _say(clock, log, float(loss.detach()), float(error.detach()), seen)
            if over:
                break
    average.swap()
    settle_variance(vae)
    vae.eval()
    shift, scaling = statistics(vae, composer, rows, config)
    vae.register_to_config(scaling_factor=scaling, shift_factor=shift)
    if machine.rank() == 0:
        save_state(dict(vae.named_parameters()), folder / f"{NAME}.safetensors")
        write_progress(folder, NAME, spent=clock.spent, scaling=scaling, shift=shift)
    machine.wait()
    return vae


def _say(clock: Clock, log: Log, loss: float, error: float, seen: int) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the autoencoder's loss is {loss} after {seen} crops")
    rate = seen / max(1e-3, clock.spent - clock.before)
    clock.line(f"loss {loss:.4f}  error {error:.4f}  {rate:.0f} crops/s")
    log.add(stage=NAME, seconds=clock.spent, loss=loss, error=error, rate=rate)


def _crops(composer: Composer, rows: Tensor, config: Config) -> Tensor:
    """A batch of crops, four from each scene, so that composing costs little."""
    share = (config.size // config.vae_crop) ** 2
    picked = torch.randint(len(rows), (max(1, config.vae_batch // share),), device=rows.device)
    pictures = composer(rows[picked])
    left, top = torch.randint(0, config.vae_crop // 2 + 1, (2,)).tolist() if share > 1 else (0, 0)
    pictures = torch.roll(pictures, (-top, -left), (2, 3))
    tiles = F.unfold(pictures, config.vae_crop, stride=config.vae_crop).transpose(1, 2)
    tiles = tiles.reshape(-1, 3, config.vae_crop, config.vae_crop)
    return tiles.to(memory_format=torch.channels_last)


@torch.no_grad()
def statistics(vae: AutoencoderKL, composer: Composer, rows: Tensor, config: Config) -> tuple[float, float]:
    """The shift and the scaling that give latents mean 0 and deviation 1, as diffusers applies them."""
    latents = encode(vae, composer(rows[: min(len(rows), config.pool_batch)]))
    return float(latents.mean()), float(1 / latents.std())


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] -> the means of their latents, raw."""
    with machine.half(pictures.device):
        moments: Tensor = vae.encoder(pictures.to(memory_format=torch.channels_last))
    return moments.float().chunk(2, 1)[0]


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Standardised latents (batch, 16, height, width) -> pictures in [0, 1]."""
    raw = latents.float() / vae.config.scaling_factor + vae.config.shift_factor
    with machine.half(latents.device):
        drawn: Tensor = vae.decoder(raw)
    return (drawn.float() / 2 + 0.5).clamp(0, 1)
