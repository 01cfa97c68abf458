"""Transformer training: flow matching first, then guidance distillation."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from training import distributed
from training.checkpoints import load_state, read_progress, save_state, write_progress
from training.loop.clock import Clock, Log, linear_decay
from training.loop.optim import EMA, MuonAdamW
from training.models.flux import NAME, FluxWithEncoders, build, empty_captions, pad_captions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from training.config import Config
    from training.drawings.dataset import Drawings
    from training.loop.pool import Pool

ADAMW_LAYERS = (  # embeddings, first and last layers
    "x_embedder",
    "context_embedder",
    "transformer.proj_out",
    "shared",
    "embed_tokens",
    "embedding",
    "relative_attention_bias",
)


def train(
    config: Config,
    drawings: Drawings,
    pool: Callable[[], Pool],
    device: torch.device,
    deadline: float,
    on_save: Callable[[], None] = lambda: None,
) -> FluxWithEncoders:
    """Train until `config.minutes` are used up or until the deadline, starting from the saved averaged weights.

    `pool` builds the training set, if there is anything to train. `on_save` is called after each save.
    """
    progress = read_progress(config.run, NAME)
    model = build(config, drawings).to(device)
    if progress:
        load_state(model, config.run / f"{NAME}.safetensors")
    spent = progress.get("spent", 0.0)
    total = config.minutes * 60
    if spent >= total:
        return model.eval()
    distributed.broadcast_weights(model)
    scenes = pool()
    torch.manual_seed(config.seed + 7919 * distributed.rank() + int(spent))
    trainer = _Trainer(config, model, scenes, device, deadline, on_save)
    flow_minutes = config.minutes * (1 - config.distill_share)
    if spent < flow_minutes * 60:
        spent = trainer.stage("flow", Flow(model, scenes), spent, 0.0, flow_minutes, 1.0)
    if spent >= flow_minutes * 60:
        task = Distillation(model, scenes, config)
        trainer.stage("distill", task, spent, flow_minutes, config.minutes, config.distill_rate)
    return model.eval()


class Flow:
    """Flow matching: predict noise minus image from their mixture (Lipman et al., 2023; Esser et al., 2024)."""

    def __init__(self, model: FluxWithEncoders, pool: Pool) -> None:
        self.model, self.pool = model, pool

    def loss(self, config: Config, rope: tuple[Tensor, Tensor], forward: Callable[..., Tensor], step: int) -> Tensor:
        """Return the mean squared error of a new batch.

        The guidance is random, so that the model learns to ignore it until distillation.
        """
        latents, token_ids = self.pool.batch(config.batch)
        device = latents.device
        dropped = torch.rand(len(token_ids), 1, device=device) < config.caption_dropout
        token_ids = torch.where(dropped, empty_captions(token_ids), token_ids)
        noise = torch.randn_like(latents)
        sigma = random_noise_levels(config, len(latents), device)
        noisy = torch.lerp(latents, noise, sigma[:, None, None])
        with distributed.autocast(device):
            velocity = forward(noisy, token_ids, sigma, random_guidance(config, len(latents), device), rope)
        return F.mse_loss(velocity.float(), noise - latents)


class Distillation:
    """Guidance distillation: one pass with the scale as input learns the result of two passes (Meng et al., 2023).

    The teacher is the model after flow matching. Every `long_every`-th step pads captions for the student to
    `long_lengths` tokens, as diffusers does with its default `max_sequence_length`. The teacher never sees this
    padding.
    """

    def __init__(self, model: FluxWithEncoders, pool: Pool, config: Config) -> None:
        self.model, self.pool = model, pool
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.compiled_teacher: Callable[..., Tensor] = torch.compile(self.teacher) if config.compile else self.teacher
        self.ropes = {length: model.rope(length, pool.latents.device) for length in config.long_lengths}

    def loss(self, config: Config, rope: tuple[Tensor, Tensor], forward: Callable[..., Tensor], step: int) -> Tensor:
        """Return the mean squared distance to the guided teacher on a new batch."""
        long = step % config.long_every == config.long_every - 1
        latents, token_ids = self.pool.batch(config.batch // 8 if long else config.batch)
        device, count = latents.device, len(latents)
        sigma = random_noise_levels(config, count, device)
        noisy = torch.lerp(latents, torch.randn_like(latents), sigma[:, None, None])
        guidance = random_guidance(config, count, device)
        scale = (1 + config.guidance_strength * (guidance - 1))[:, None, None]
        teacher = self.teacher if long else self.compiled_teacher
        with torch.no_grad(), distributed.autocast(device):
            conditional = teacher(noisy, token_ids, sigma, guidance, rope).float()
            unconditional = teacher(noisy, empty_captions(token_ids), sigma, guidance, rope).float()
        target = unconditional + scale * (conditional - unconditional)
        with distributed.autocast(device):
            if long:
                length = config.long_lengths[step // config.long_every % len(config.long_lengths)]
                velocity = self.model(noisy, pad_captions(token_ids, length), sigma, guidance, self.ropes[length])
            else:
                velocity = forward(noisy, token_ids, sigma, guidance, rope)
        return F.mse_loss(velocity.float(), target)


class _Trainer:
    """The training loop of both stages, with clock, optimizer, averaged weights and checkpoints."""

    def __init__(
        self,
        config: Config,
        model: FluxWithEncoders,
        pool: Pool,
        device: torch.device,
        deadline: float,
        on_save: Callable[[], None],
    ) -> None:
        self.config, self.model, self.device, self.deadline, self.on_save = config, model, device, deadline, on_save
        self.rope = model.rope(pool.token_ids.shape[2], device)
        self.forward: Callable[..., Tensor] = torch.compile(model) if config.compile else model
        self.log = Log(config.run / "log.jsonl")

    def stage(self, name: str, task: Flow | Distillation, spent: float, begin: float, end: float, rate: float) -> float:
        """Run a stage from minute `begin` to minute `end` of the training, and return the total seconds spent.

        `spent` is the total before the stage; `rate` is a factor of the learning rates.
        """
        config, model = self.config, self.model.train()
        optimizer = MuonAdamW(model, config.muon_rate, config.adam_rate, ADAMW_LAYERS)
        ema = EMA(model, config.ema)
        clock = Clock(name, end - begin, spent - begin * 60, self.deadline)
        step = uncounted_steps = 0
        saved_at = clock.spent
        losses: list[Tensor] = []
        stop = False
        while not stop:
            loss = task.loss(config, self.rope, self.forward, step)
            loss.backward()
            distributed.average_gradients(optimizer.parameters)
            scale = rate * min(1.0, (step + 1) / config.warmup) * linear_decay(clock.progress, config.decay_from)
            optimizer.step(scale)
            ema.update()
            losses.append(loss.detach())
            step += 1
            if step == 2:
                clock.restart()  # the first steps compile
                uncounted_steps = step
            if step % 10 and self.device.type != "cpu":
                continue
            stop = distributed.broadcast_bool(clock.expired and step > 2, self.device)
            if clock.due() or stop:
                value = distributed.mean(torch.stack(losses).mean())
                losses.clear()
                if value != value:  # noqa: PLR0124 - only a NaN differs from itself
                    raise FloatingPointError(
                        f"The loss of stage {name!r} is NaN after {step} steps. Lower the learning rates."
                    )
                samples = (step - uncounted_steps) * config.batch * distributed.world_size()
                speed = samples / max(1e-3, clock.spent - clock.spent_before)
                clock.print_line(f"loss {value:.4f}  {speed:.0f} samples/s")
                self.log.add(stage=name, seconds=begin * 60 + clock.spent, loss=value, rate=speed)
            if stop or distributed.broadcast_bool(clock.spent - saved_at > 75, self.device):
                saved_at = clock.spent
                ema.swap()
                self._save(begin * 60 + clock.spent)
                if not stop:
                    ema.swap()
        return begin * 60 + clock.spent

    def _save(self, spent: float) -> None:
        if distributed.rank() == 0:
            save_state(dict(self.model.named_parameters()), self.config.run / f"{NAME}.safetensors")
            write_progress(self.config.run, NAME, spent=spent)
            self.on_save()


def random_noise_levels(config: Config, count: int, device: torch.device) -> Tensor:
    """Return noise levels in (0, 1): logit-normal, and uniform for one sample in ten, to cover every level."""
    normal = torch.sigmoid(config.noise_mean + config.noise_std * torch.randn(count, device=device))
    uniform = torch.rand(count, device=device)
    return torch.where(torch.rand(count, device=device) < 0.1, uniform, normal)


def random_guidance(config: Config, count: int, device: torch.device) -> Tensor:
    """Return guidance scales, uniform over `guidance_range`."""
    low, high = config.guidance_range
    return low + (high - low) * torch.rand(count, device=device)
