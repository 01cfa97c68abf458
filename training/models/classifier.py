"""The classifier that evaluates images: it says which drawing an image shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from training.checkpoints import load_state

if TYPE_CHECKING:
    from collections.abc import Sized

    from torch import Tensor

    from training.config import Config

NAME = "classifier"


class Classifier(nn.Module):
    """Four levels of convolutions over a downscaled image, then one score per drawing."""

    def __init__(self, config: Config, drawings: int) -> None:
        super().__init__()
        self.size = config.classifier_size
        levels: list[nn.Module] = []
        before = 3
        for width in config.classifier_widths:
            for channels in (before, width):
                levels += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            levels.append(nn.MaxPool2d(2))
            before = width
        self.features = nn.Sequential(*levels)
        self.scores = nn.Linear(before * 2, drawings)

    def forward(self, images: Tensor) -> Tensor:
        """Map images in [-1, 1] of any size to scores (batch, drawings)."""
        small = F.interpolate(images, (self.size, self.size), mode="area")
        features = self.features(small).flatten(2)
        scores: Tensor = self.scores(torch.cat((features.amax(2), features.mean(2)), 1))
        return scores


def load(config: Config, drawings: Sized) -> Classifier:
    """Load the classifier from the run's folder, or else the one that evaluated the bundled model."""
    model = Classifier(config, len(drawings))
    own = config.run / f"{NAME}.safetensors"
    load_state(model, own if own.exists() else Path(__file__).with_name(own.name))
    return model.eval()
