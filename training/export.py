"""The trained weights as the folder that `diffusers.FluxPipeline.from_pretrained` loads."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from training import autoencoder, transformer, vocabulary
from training.text import wrapped_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from training.config import Config
    from training.drawings import Drawings

LIMIT = 24_000_000  # bytes, all files together
NAME = "chutes-emoji-flux"


def export(config: Config, drawings: Drawings, target: Path) -> None:
    """Write the pipeline in bfloat16, and beside it `imagegen.json`: what a service needs to know of it."""
    device = torch.device("cpu")
    vae = autoencoder.train(config, drawings, device, deadline=0)
    model = transformer.load(config, drawings, device).bfloat16()
    words = vocabulary.vocabulary(drawings.names)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=config.scheduler_shift),
        vae=vae.bfloat16(),
        text_encoder=model.clip,
        tokenizer=wrapped_tokenizer(words, config.max_words, start=True),
        text_encoder_2=model.t5,
        tokenizer_2=wrapped_tokenizer(words, config.max_words, start=False),
        transformer=model.transformer,
    )
    target.mkdir(parents=True, exist_ok=True)
    for name in pipeline.config:
        if (target / name).is_dir():
            shutil.rmtree(target / name)
    pipeline.save_pretrained(target)
    about = {"name": NAME, "native_size": config.size, "max_sequence_length": config.max_words}
    (target / "imagegen.json").write_text(json.dumps(about, indent=2) + "\n")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.2f} MB", flush=True)
    if size > LIMIT:
        raise SystemExit(f"the exported folder has {size} bytes, more than {LIMIT}")
