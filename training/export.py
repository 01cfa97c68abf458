"""The trained weights as the folder that `diffusers.FluxPipeline.from_pretrained` loads."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from safetensors.torch import load_file

from training import autoencoder, storage, transformer, vocabulary
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
    trained = {name: storage.read_progress(config.run, name)["spent"] for name in (autoencoder.NAME, transformer.NAME)}
    about = {
        "name": NAME,
        "native_size": config.size,
        "max_sequence_length": config.max_words,
        "seconds_of_training": trained,
    }
    (target / "imagegen.json").write_text(json.dumps(about, indent=2) + "\n")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.2f} MB", flush=True)
    if size > LIMIT:
        raise SystemExit(f"the exported folder has {size} bytes, more than {LIMIT}")


def restore(folder: Path, run: Path) -> None:
    """Turn an exported folder back into a run that goes on where it stopped, less the rounding of its weights."""
    parts = {"transformer": "transformer", "text_encoder": "clip", "text_encoder_2": "t5", "vae": None}
    states = {part: load_file(next((folder / part).glob("*.safetensors"))) for part in parts}
    painter = {
        f"{prefix}.{name}": value for part, prefix in parts.items() if prefix for name, value in states[part].items()
    }
    storage.save_state(painter, run / f"{transformer.NAME}.safetensors")
    storage.save_state(states["vae"], run / f"{autoencoder.NAME}.safetensors")
    vae = json.loads((folder / "vae" / "config.json").read_text())
    spent = json.loads((folder / "imagegen.json").read_text())["seconds_of_training"]
    latents = {"scaling": vae["scaling_factor"], "shift": vae["shift_factor"]}
    storage.write_progress(run, autoencoder.NAME, spent=spent[autoencoder.NAME], **latents)
    storage.write_progress(run, transformer.NAME, spent=spent[transformer.NAME])
