"""Classifier training: single objects of all sizes, places, colours and backgrounds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from training import distributed
from training.captions.scenes import OBJECT_COLUMNS, sample_scenes
from training.checkpoints import read_progress, save_state, write_progress
from training.drawings.compose import Composer
from training.loop.clock import Clock, Log, linear_decay
from training.loop.optim import EMA, MuonAdamW
from training.models.classifier import NAME, Classifier, load

if TYPE_CHECKING:
    from training.config import Config
    from training.drawings.dataset import Drawings


def train(config: Config, drawings: Drawings, device: torch.device, deadline: float) -> Classifier:
    """Train the classifier and save it in the run's folder, or load it if it is there."""
    if read_progress(config.run, NAME):
        return load(config, drawings).to(device)
    torch.manual_seed(config.seed)
    model = Classifier(config, len(drawings)).to(device)
    colours: list[str | None] = [None] * len(drawings)
    rows = torch.from_numpy(sample_scenes(drawings.names, colours, config.seed + 5, config.vae_scenes * 2, 0)[0])
    rows = rows[rows[:, len(OBJECT_COLUMNS)] < 0].to(device)  # scenes of one object
    composer = Composer(_downscale(drawings, config.classifier_size * 2), device)
    optimizer = MuonAdamW(model, 0.01, 2e-3, ("features.0.", "scores"))
    ema = EMA(model, 0.99)
    clock = Clock(NAME, config.classifier_minutes, 0.0, deadline)
    log = Log(config.run / "log.jsonl")
    step = 0
    while True:
        batch = rows[torch.randint(len(rows), (config.classifier_batch,), device=device)].clone()
        batch[:, 0] = torch.randint(len(drawings), (len(batch),), device=device)
        images = composer(batch).float()
        images = images + torch.randn_like(images) * 0.1 * torch.rand(len(batch), 1, 1, 1, device=device)
        with distributed.autocast(device):
            scores = model(images).float()
        loss = F.cross_entropy(scores, batch[:, 0].long(), label_smoothing=0.05)
        loss.backward()
        optimizer.step(min(1.0, (step + 1) / 50) * linear_decay(clock.progress, 0.3))
        ema.update()
        step += 1
        if step == 1:
            clock.restart()
        if step % 10:
            continue
        stop = clock.expired
        if clock.due() or stop:
            accuracy = float((scores.argmax(1) == batch[:, 0]).float().mean())
            clock.print_line(
                f"loss {float(loss.detach()):.3f}  accuracy {accuracy:.1%}  {step / max(1e-3, clock.spent):.0f} steps/s"
            )
            log.add(stage=NAME, seconds=clock.spent, loss=float(loss.detach()), accuracy=accuracy)
        if stop:
            break
    ema.swap()
    save_state(dict(model.named_parameters()), config.run / f"{NAME}.safetensors")
    write_progress(config.run, NAME, spent=clock.spent)
    model.eval()
    return model


def _downscale(drawings: Drawings, size: int) -> Drawings:
    """Return the drawings at a smaller size, which is enough for the classifier."""
    pixels = torch.from_numpy(drawings.pixels).permute(0, 3, 1, 2).float()
    shrunk = F.interpolate(pixels, (size, size), mode="area").byte().permute(0, 2, 3, 1)
    return replace(drawings, pixels=np.ascontiguousarray(shrunk.numpy()))
