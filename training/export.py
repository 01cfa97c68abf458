"""Export to and import from the folder format that `diffusers.FluxPipeline.from_pretrained` loads."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from safetensors.torch import load_file

from training import checkpoints
from training.captions import vocabulary
from training.models import autoencoder, flux
from training.models.text_encoders import wrapped_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from training.config import Config
    from training.drawings.dataset import Drawings

MAX_BYTES = 24_000_000  # of all files together
NAME = "chutes-emoji-flux"


def export(config: Config, drawings: Drawings, target: Path) -> None:
    """Write the pipeline in bfloat16, and `imagegen.json` with the model's native size and caption length."""
    device = torch.device("cpu")
    vae = autoencoder.load(config, device)
    model = flux.load(config, drawings, device).bfloat16()
    words = vocabulary.vocabulary(drawings.names)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=config.scheduler_shift),
        vae=vae.bfloat16(),
        text_encoder=model.clip,
        tokenizer=wrapped_tokenizer(words, config.max_tokens, start=True),
        text_encoder_2=model.t5,
        tokenizer_2=wrapped_tokenizer(words, config.max_tokens, start=False),
        transformer=model.transformer,
    )
    target.mkdir(parents=True, exist_ok=True)
    for name in pipeline.config:
        if (target / name).is_dir():
            shutil.rmtree(target / name)
    pipeline.save_pretrained(target)
    trained = {name: checkpoints.read_progress(config.run, name)["spent"] for name in (autoencoder.NAME, flux.NAME)}
    about = {
        "name": NAME,
        "native_size": config.size,
        "max_sequence_length": config.max_tokens,
        "seconds_of_training": trained,
    }
    (target / "imagegen.json").write_text(json.dumps(about, indent=2) + "\n")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.2f} MB", flush=True)
    if size > MAX_BYTES:
        raise SystemExit(
            f"The exported folder {target} has {size} bytes; the limit is {MAX_BYTES}. Remove other files from it, or "
            "reduce the model's widths in training/config.py."
        )


def restore(folder: Path, run: Path) -> None:
    """Create a run from an exported folder, so that training can resume from its bfloat16 weights."""
    parts = {"transformer": "transformer", "text_encoder": "clip", "text_encoder_2": "t5", "vae": None}
    states = {part: load_file(next((folder / part).glob("*.safetensors"))) for part in parts}
    weights = {
        f"{prefix}.{name}": value for part, prefix in parts.items() if prefix for name, value in states[part].items()
    }
    checkpoints.save_state(weights, run / f"{flux.NAME}.safetensors")
    checkpoints.save_state(states["vae"], run / f"{autoencoder.NAME}.safetensors")
    vae = json.loads((folder / "vae" / "config.json").read_text())
    spent = json.loads((folder / "imagegen.json").read_text())["seconds_of_training"]
    latents = {"scaling": vae["scaling_factor"], "shift": vae["shift_factor"]}
    checkpoints.write_progress(run, autoencoder.NAME, spent=spent[autoencoder.NAME], **latents)
    checkpoints.write_progress(run, flux.NAME, spent=spent[flux.NAME])
