"""A small classifier of the drawings, trained on the same renders: the judge of what a picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from training import machine, scenes
from training.clock import Clock, Log, falling
from training.compose import Composer
from training.optim import Average, Mixed
from training.storage import load_state, read_progress, save_state, write_progress

if TYPE_CHECKING:
    from collections.abc import Sized

    from torch import Tensor

    from training.config import Config
    from training.drawings import Drawings

NAME = "classifier"


class Classifier(nn.Module):
    """Four levels of convolutions over a small picture, then one score a drawing."""

    def __init__(self, config: Config, drawings: int) -> None:
        super().__init__()
        self.size = config.classifier_size
        levels: list[nn.Module] = []
        before = 3
        for width in config.classifier_widths:
            for into in (before, width):
                levels += [nn.Conv2d(into, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            levels.append(nn.MaxPool2d(2))
            before = width
        self.features = nn.Sequential(*levels)
        self.scores = nn.Linear(before * 2, drawings)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures in [-1, 1] of any size -> scores (batch, drawings)."""
        small = F.interpolate(pictures, (self.size, self.size), mode="area")
        features = self.features(small).flatten(2)
        scores: Tensor = self.scores(torch.cat((features.amax(2), features.mean(2)), 1))
        return scores


def load(config: Config, drawings: Sized) -> Classifier:
    """The trained classifier, from the run's folder or else the one that judged the bundled model."""
    model = Classifier(config, len(drawings))
    own = config.run / f"{NAME}.safetensors"
    load_state(model, own if own.exists() else Path(__file__).with_name(own.name))
    return model.eval()


def train(config: Config, drawings: Drawings, device: torch.device, deadline: float) -> Classifier:
    """Train on single things of all sizes, places, colours and grounds; keeps what it learnt in the run's folder."""
    done = read_progress(config.run, NAME)
    if done:
        return load(config, drawings).to(device)
    torch.manual_seed(config.seed)
    model = Classifier(config, len(drawings)).to(device)
    own: list[str | None] = [None] * len(drawings)
    rows = torch.from_numpy(scenes.think_up(drawings.names, own, config.seed + 5, config.vae_scenes * 2, 0)[0])
    rows = rows[rows[:, len(scenes.THING_COLUMNS)] < 0].to(device)
    composer = Composer(_small(drawings, config.classifier_size * 2), device)
    optimizer = Mixed(model, 0.01, 2e-3, ("features.0.", "scores"))
    average = Average(model, 0.99)
    clock = Clock(NAME, config.classifier_minutes, 0.0, deadline)
    log = Log(config.run / "log.jsonl")
    step = 0
    while True:
        batch = rows[torch.randint(len(rows), (config.classifier_batch,), device=device)].clone()
        batch[:, 0] = torch.randint(len(drawings), (len(batch),), device=device)
        pictures = composer(batch).float()
        pictures = pictures + torch.randn_like(pictures) * 0.1 * torch.rand(len(batch), 1, 1, 1, device=device)
        with machine.half(device):
            scores = model(pictures).float()
        loss = F.cross_entropy(scores, batch[:, 0].long(), label_smoothing=0.05)
        loss.backward()
        optimizer.step(min(1.0, (step + 1) / 50) * falling(clock.progress, 0.3))
        average.update()
        step += 1
        if step == 1:
            clock.restart()
        if step % 10:
            continue
        over = clock.over
        if clock.due() or over:
            right = float((scores.argmax(1) == batch[:, 0]).float().mean())
            clock.line(
                f"loss {float(loss.detach()):.3f}  right {right:.1%}  {step / max(1e-3, clock.spent):.0f} steps/s"
            )
            log.add(stage=NAME, seconds=clock.spent, loss=float(loss.detach()), right=right)
        if over:
            break
    average.swap()
    save_state(dict(model.named_parameters()), config.run / f"{NAME}.safetensors")
    write_progress(config.run, NAME, spent=clock.spent)
    model.eval()
    return model


def _small(drawings: Drawings, size: int) -> Drawings:
    """The drawings at a smaller size: enough for a judge that looks at small pictures."""
    from dataclasses import replace

    import numpy as np

    pixels = torch.from_numpy(drawings.pixels).permute(0, 3, 1, 2).float()
    shrunk = F.interpolate(pixels, (size, size), mode="area").byte().permute(0, 2, 3, 1)
    return replace(drawings, pixels=np.ascontiguousarray(shrunk.numpy()))
