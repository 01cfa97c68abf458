"""The steps of `python -m training`, in order; each loads what the one before left."""

from __future__ import annotations

import math
import shutil
from functools import partial
from typing import TYPE_CHECKING

import torch

from training import (
    autoencoder,
    classifier,
    export,
    machine,
    pool,
    report,
    sheet,
    storage,
    transformer,
)
from training import (
    drawings as drawn,
)
from training.clock import timed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from training.config import Config
    from training.drawings import Drawings


def walk(
    config: Config, steps: Iterable[str], archive: Path, deadline: float, parcel: Path | None, target: Path
) -> None:
    """Walk through the steps; whatever fails, what was learnt until then is kept and sampled."""
    wanted = set(steps)
    config.run.mkdir(parents=True, exist_ok=True)
    if "data" in wanted and not archive.exists():
        drawn.build(archive)
    drawings = timed("drawings", lambda: drawn.load(archive, config.size))
    device = machine.start()
    try:
        learn(config, wanted, drawings, device, deadline, parcel)
    finally:
        if machine.rank() == 0 and "samples" in wanted:
            timed("samples", lambda: samples(config, drawings, device, parcel))
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)
    if machine.rank() == 0:
        if "export" in wanted:
            export.export(config, drawings, target)
        if "report" in wanted:
            report.write(target)
    machine.stop()


def learn(
    config: Config, steps: set[str], drawings: Drawings, device: torch.device, deadline: float, parcel: Path | None
) -> None:
    """The three trainings, each of them packed as soon as it is saved."""

    def keep() -> None:
        if parcel and machine.rank() == 0:
            storage.pack(config.run, parcel)

    if "autoencoder" in steps:
        autoencoder.train(config, drawings, device, deadline)
        keep()
    if "transformer" in steps:
        if not storage.read_progress(config.run, autoencoder.NAME):
            raise SystemExit("the transformer's training needs an autoencoder: train one, or name what to --resume")
        vae = autoencoder.train(config, drawings, device, deadline=0)
        # A run that goes on from an earlier one sees other scenes than that did.
        seed = config.seed + int(storage.read_progress(config.run, transformer.NAME).get("spent", 0))
        material = partial(pool.build, config, drawings, vae, device, seed)
        transformer.train(config, drawings, material, device, deadline, keep)
    if "classifier" in steps and machine.rank() == 0:
        classifier.train(config, drawings, device, math.inf)
        keep()


def samples(config: Config, drawings: Drawings, device: torch.device, parcel: Path | None) -> None:
    """Whatever there is to look at: reconstructions, a contact sheet, loss curves."""
    made = []
    if (config.run / "log.jsonl").exists():
        sheet.curves(config.run / "log.jsonl", config.run / "curves.png")
        made.append("curves.png")
    if (config.run / f"{autoencoder.NAME}.safetensors").exists():
        vae = autoencoder.train(config, drawings, device, deadline=0)
        sheet.reconstructions(config, drawings, vae, device).save(config.run / "autoencoder.png")
        made.append("autoencoder.png")
        if (config.run / f"{transformer.NAME}.safetensors").exists():
            spent = storage.read_progress(config.run, transformer.NAME)["spent"]
            distilled = spent > config.minutes * 60 * (1 - config.distill_share) + 5
            model = transformer.load(config, drawings, device)
            sheet.samples(config, drawings, model, vae, distilled=distilled).save(config.run / "samples.png")
            made.append("samples.png")
    if parcel:
        for name in made:
            shutil.copy(config.run / name, parcel / name)
