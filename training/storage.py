"""What a run keeps: half-precision weights, progress, and parcels of both for machines that hand back small files."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

PARCEL_BYTES = 15 * 2**20


def save_state(state: dict[str, Tensor], path: Path) -> None:
    """Write weights as fp16: a quarter of the training state, and 11 bits are plenty to go on from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: weight.detach().to("cpu", torch.float16).contiguous() for name, weight in state.items()}
    fresh = path.with_suffix(".part")
    save_file(halves, fresh)
    fresh.rename(path)  # a run that is cut off here leaves the older file whole


def load_state(model: nn.Module, path: Path) -> None:
    """Read weights back into a model, at its own precision."""
    with torch.no_grad():
        state = load_file(path)
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])


def read_progress(folder: Path, stage: str) -> dict[str, float]:
    """What a stage wrote when it last stopped, or nothing."""
    path = folder / f"{stage}.json"
    if not path.exists():
        return {}
    progress: dict[str, float] = json.loads(path.read_text())
    return progress


def write_progress(folder: Path, stage: str, **values: float) -> None:
    """Note how far a stage is."""
    (folder / f"{stage}.json").write_text(json.dumps(values))


def pack(folder: Path, target: Path) -> None:
    """Put a run's files into numbered parts small enough to travel."""
    target.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            if path.suffix in {".safetensors", ".json", ".jsonl"}:
                tar.add(path, path.name)
    whole = data.getvalue()
    for index, start in enumerate(range(0, len(whole), PARCEL_BYTES)):
        (target / f"run.tar.{index}").write_bytes(whole[start : start + PARCEL_BYTES])


def unpack(source: Path, folder: Path) -> None:
    """Put the parts together again."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = sorted(source.glob("run.tar.*"))
    if not parts:
        raise SystemExit(f"there is nothing to resume in {source}")
    whole = b"".join(part.read_bytes() for part in parts)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        tar.extractall(folder, filter="data")
