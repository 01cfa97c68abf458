"""A training run that is small enough for a test: eight plain shapes, trained for some seconds on one core."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image, ImageDraw

from training import config
from training.drawings import dataset
from training.loop import clock, steps

if TYPE_CHECKING:
    from pathlib import Path


def shape(kind: str, colour: str) -> Image.Image:
    picture = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    if kind == "ball":
        pen.ellipse((24, 24, 232, 232), fill=colour)
    elif kind == "box":
        pen.rectangle((32, 32, 224, 224), fill=colour)
    elif kind == "roof":
        pen.polygon(((128, 24), (232, 232), (24, 232)), fill=colour)
    else:
        pen.rectangle((104, 16, 152, 240), fill=colour)
    return picture


@pytest.fixture(scope="session")
def drawings_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawings") / "drawings.zip"
    kinds = {
        f"{colour}-{kind}": shape(kind, colour) for kind in ("ball", "box", "roof", "bar") for colour in ("red", "blue")
    }
    dataset.write(path, {name: [name.partition("-")[2], name.replace("-", " ")] for name in kinds}, kinds)
    return path


@pytest.fixture(scope="session")
def trained(drawings_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    """The result of the smoke recipe, run once from the drawings to the exported folder."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("run")
    smoke = replace(config.SMOKE, run=run / "work")
    start = time.monotonic()
    selected = ("data", "autoencoder", "transformer", "classifier", "samples", "export")
    with pytest.MonkeyPatch.context() as patch:
        # Each stage trains for a CPU time, so that a busy machine takes as many steps as an idle one.
        patch.setattr(clock, "time", SimpleNamespace(monotonic=time.process_time))
        steps.run(smoke, selected, drawings_zip, float("inf"), run / "archive", run / "folder")
    print(f"the smoke recipe took {time.monotonic() - start:.0f} s")
    return smoke
