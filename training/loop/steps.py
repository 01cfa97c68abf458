"""The steps of `python -m training`. Each step loads the files that the previous ones saved."""

from __future__ import annotations

import math
import shutil
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from training import checkpoints, contact_sheet, distributed, export, report
from training.drawings import dataset
from training.loop import autoencoder, classifier, pool, transformer
from training.loop.clock import timed
from training.models import autoencoder as autoencoder_model
from training.models import flux

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from training.config import Config
    from training.drawings.dataset import Drawings


def run(
    config: Config, steps: Iterable[str], drawings_zip: Path, deadline: float, archive: Path | None, target: Path
) -> None:
    """Run steps in order. If training fails, its last checkpoint is still sampled.

    Args:
        config: the recipe.
        steps: names of steps; see `python -m training --help`.
        drawings_zip: the rendered drawings; the step "data" downloads them if the file is missing.
        deadline: when to stop training, in seconds of `time.monotonic()`.
        archive: a folder for a copy of the run, or None.
        target: the folder that the step "export" writes.
    """
    selected = set(steps)
    config.run.mkdir(parents=True, exist_ok=True)
    if "data" in selected and not drawings_zip.exists():
        dataset.download(drawings_zip)
    drawings = timed("drawings", lambda: dataset.read(drawings_zip, config.size))
    device = distributed.start()
    try:
        train(config, selected, drawings, device, deadline, archive)
    finally:
        if distributed.rank() == 0 and "samples" in selected:
            timed("samples", lambda: draw_samples(config, drawings, device, archive))
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)
    if distributed.rank() == 0:
        if "export" in selected:
            export.export(config, drawings, target)
        if "report" in selected:
            report.write(target)
    distributed.stop()


def train(
    config: Config, steps: set[str], drawings: Drawings, device: torch.device, deadline: float, archive: Path | None
) -> None:
    """Train the selected networks, and update the archive after each save."""

    def update_archive() -> None:
        if archive and distributed.rank() == 0:
            checkpoints.pack_archive(config.run, archive)

    if "autoencoder" in steps:
        autoencoder.train(config, drawings, device, deadline)
        update_archive()
    if "transformer" in steps:
        if not checkpoints.read_progress(config.run, autoencoder_model.NAME):
            raise SystemExit(
                f"The step 'transformer' needs an autoencoder, but {config.run} has none. "
                "Run the step 'autoencoder' first, or pass --resume."
            )
        vae = autoencoder_model.load(config, device)
        # A resumed run samples other scenes than the run before it.
        seed = config.seed + int(checkpoints.read_progress(config.run, flux.NAME).get("spent", 0))
        build_pool = partial(pool.build, config, drawings, vae, device, seed)
        transformer.train(config, drawings, build_pool, device, deadline, update_archive)
    if "classifier" in steps and distributed.rank() == 0:
        classifier.train(config, drawings, device, math.inf)
        update_archive()


def draw_samples(config: Config, drawings: Drawings, device: torch.device, archive: Path | None) -> None:
    """Draw loss curves, reconstructions and a contact sheet, as far as the run has the files for them."""
    written = []
    if (config.run / "log.jsonl").exists() and find_spec("matplotlib") is not None:  # in the bench extra
        contact_sheet.plot_losses(config.run / "log.jsonl", config.run / "curves.png")
        written.append("curves.png")
    if (config.run / f"{autoencoder_model.NAME}.safetensors").exists():
        vae = autoencoder_model.load(config, device)
        contact_sheet.reconstructions(config, drawings, vae, device).save(config.run / "autoencoder.png")
        written.append("autoencoder.png")
        if (config.run / f"{flux.NAME}.safetensors").exists():
            spent = checkpoints.read_progress(config.run, flux.NAME)["spent"]
            distilled = spent > config.minutes * 60 * (1 - config.distill_share) + 5
            model = flux.load(config, drawings, device)
            sheet = contact_sheet.sample_sheet(config, drawings, model, vae, distilled=distilled)
            sheet.save(config.run / "samples.png")
            written.append("samples.png")
    if archive:
        for name in written:
            shutil.copy(config.run / name, archive / name)
