"""Training the transformer: flow matching first, then guidance distillation."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from training import machine, vocabulary
from training.clock import Clock, Log, falling
from training.model import Painter, empty_words, padded
from training.optim import Average, Mixed
from training.storage import load_state, read_progress, save_state, write_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from training.config import Config
    from training.drawings import Drawings
    from training.pool import Pool

NAME = "transformer"
OUTER = (
    "x_embedder",
    "context_embedder",
    "transformer.proj_out",
    "shared",
    "embed_tokens",
    "embedding",
    "relative_attention_bias",
)


def build(config: Config, drawings: Drawings) -> Painter:
    """The untrained model; deterministic for a seed."""
    torch.manual_seed(config.seed)
    return Painter(config, len(vocabulary.vocabulary(drawings.names)))


def load(config: Config, drawings: Drawings, device: torch.device) -> Painter:
    """The trained model, from the run's folder."""
    model = build(config, drawings).to(device)
    load_state(model, config.run / f"{NAME}.safetensors")
    return model.eval()


def train(
    config: Config,
    drawings: Drawings,
    pool: Callable[[], Pool],
    device: torch.device,
    deadline: float,
    saved: Callable[[], None] = lambda: None,
) -> Painter:
    """Train until the time is used up or the deadline comes; goes on from the averaged weights of the run before."""
    done = read_progress(config.run, NAME)
    model = build(config, drawings).to(device)
    if done:
        load_state(model, config.run / f"{NAME}.safetensors")
    spent = done.get("spent", 0.0)
    total = config.minutes * 60
    if spent >= total:
        return model.eval()
    machine.same_weights(model)
    material = pool()
    torch.manual_seed(config.seed + 7919 * machine.rank() + int(spent))
    run = _Run(config, model, material, device, deadline, saved)
    flow_minutes = config.minutes * (1 - config.distill_share)
    if spent < flow_minutes * 60:
        spent = run.stage("flow", Flow(model, material), spent, 0.0, flow_minutes, 1.0)
    if spent >= flow_minutes * 60:
        run.stage(
            "distill", Distillation(model, material, config), spent, flow_minutes, config.minutes, config.distill_rate
        )
    return model.eval()


class Flow:
    """Flow matching: predict noise minus picture from their mixture (Lipman et al., 2023; Esser et al., 2024)."""

    def __init__(self, model: Painter, pool: Pool) -> None:
        self.model, self.pool = model, pool

    def loss(self, config: Config, rope: tuple[Tensor, Tensor], forward: Callable[..., Tensor], step: int) -> Tensor:
        """The mean squared error of a fresh batch. The guidance embedding sees anything, and learns to be ignored."""
        latents, words = self.pool.batch(config.batch)
        device = latents.device
        dropped = torch.rand(len(words), 1, device=device) < config.caption_dropout
        words = torch.where(dropped, empty_words(words), words)
        noise = torch.randn_like(latents)
        sigma = noise_levels(config, len(latents), device)
        noisy = torch.lerp(latents, noise, sigma[:, None, None])
        with machine.half(device):
            velocity = forward(noisy, words, sigma, guidances(config, len(latents), device), rope)
        return F.mse_loss(velocity.float(), noise - latents)


class Distillation:
    """Guidance distillation: one pass that is told the scale learns what two passes do (Meng et al., 2023).

    The teacher is the model as flow matching left it. Now and then captions come with many padding tokens, as when a
    caller leaves diffusers' `max_sequence_length` at its default; the teacher never sees those.
    """

    def __init__(self, model: Painter, pool: Pool, config: Config) -> None:
        self.model, self.pool = model, pool
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.teach: Callable[..., Tensor] = torch.compile(self.teacher) if config.compile else self.teacher
        self.ropes = {length: model.rope(length, pool.latents.device) for length in config.long_words}

    def loss(self, config: Config, rope: tuple[Tensor, Tensor], forward: Callable[..., Tensor], step: int) -> Tensor:
        """The mean squared distance to the guided teacher on a fresh batch."""
        long = step % config.long_every == config.long_every - 1
        latents, words = self.pool.batch(config.batch // 8 if long else config.batch)
        device, count = latents.device, len(latents)
        sigma = noise_levels(config, count, device)
        noisy = torch.lerp(latents, torch.randn_like(latents), sigma[:, None, None])
        guidance = guidances(config, count, device)
        scale = (1 + config.guidance_strength * (guidance - 1))[:, None, None]
        teach = self.teacher if long else self.teach
        with torch.no_grad(), machine.half(device):
            named = teach(noisy, words, sigma, guidance, rope).float()
            unnamed = teach(noisy, empty_words(words), sigma, guidance, rope).float()
        target = unnamed + scale * (named - unnamed)
        with machine.half(device):
            if long:
                length = config.long_words[step // config.long_every % len(config.long_words)]
                velocity = self.model(noisy, padded(words, length), sigma, guidance, self.ropes[length])
            else:
                velocity = forward(noisy, words, sigma, guidance, rope)
        return F.mse_loss(velocity.float(), target)


class _Run:
    """What both stages share: the loop, the clock, the optimizer, the average, the checkpoints."""

    def __init__(
        self,
        config: Config,
        model: Painter,
        pool: Pool,
        device: torch.device,
        deadline: float,
        saved: Callable[[], None],
    ) -> None:
        self.config, self.model, self.device, self.deadline, self.saved = config, model, device, deadline, saved
        self.rope = model.rope(pool.words.shape[2], device)
        self.forward: Callable[..., Tensor] = torch.compile(model) if config.compile else model
        self.log = Log(config.run / "log.jsonl")

    def stage(self, name: str, task: Flow | Distillation, spent: float, begin: float, end: float, rate: float) -> float:
        """Run one stage from `begin` to `end` (minutes of the whole), and return the seconds spent on all stages."""
        config, model = self.config, self.model.train()
        optimizer = Mixed(model, config.muon_rate, config.adam_rate, OUTER)
        average = Average(model, config.ema)
        clock = Clock(name, end - begin, spent - begin * 60, self.deadline)
        step = counted = 0
        kept = clock.spent
        losses: list[Tensor] = []
        over = False
        while not over:
            loss = task.loss(config, self.rope, self.forward, step)
            loss.backward()
            machine.share_gradients(optimizer.parameters)
            scale = rate * min(1.0, (step + 1) / config.warmup) * falling(clock.progress, config.decay_from)
            optimizer.step(scale)
            average.update()
            losses.append(loss.detach())
            step += 1
            if step == 2:
                clock.restart()  # compiling is behind
                counted = step
            if step % 10 and self.device.type != "cpu":
                continue
            over = machine.agreed(clock.over and step > 2, self.device)
            if clock.due() or over:
                value = machine.mean(torch.stack(losses).mean())
                losses.clear()
                if value != value:  # noqa: PLR0124 - only a NaN differs from itself
                    raise FloatingPointError(f"the loss is not a number after {step} steps of {name}")
                samples = (step - counted) * config.batch * machine.world()
                speed = samples / max(1e-3, clock.spent - clock.before)
                clock.line(f"loss {value:.4f}  {speed:.0f} samples/s")
                self.log.add(stage=name, seconds=begin * 60 + clock.spent, loss=value, rate=speed)
            if over or machine.agreed(clock.spent - kept > 75, self.device):
                kept = clock.spent
                average.swap()
                self._save(begin * 60 + clock.spent)
                if not over:
                    average.swap()
        return begin * 60 + clock.spent

    def _save(self, spent: float) -> None:
        if machine.rank() == 0:
            save_state(dict(self.model.named_parameters()), self.config.run / f"{NAME}.safetensors")
            write_progress(self.config.run, NAME, spent=spent)
            self.saved()


def noise_levels(config: Config, count: int, device: torch.device) -> Tensor:
    """Noise levels in (0, 1): logit-normal, with a tenth spread evenly so that no level is forgotten."""
    normal = torch.sigmoid(config.noise_mean + config.noise_std * torch.randn(count, device=device))
    even = torch.rand(count, device=device)
    return torch.where(torch.rand(count, device=device) < 0.1, even, normal)


def guidances(config: Config, count: int, device: torch.device) -> Tensor:
    """Guidance scales, spread evenly over the range."""
    low, high = config.guidance_range
    return low + (high - low) * torch.rand(count, device=device)
