"""A run's files: weights in half precision, progress, and archives of both in parts of limited size."""

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

PART_BYTES = 15 * 2**20


def save_state(state: dict[str, Tensor], path: Path) -> None:
    """Write weights as float16, which is precise enough to resume from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.detach().to("cpu", torch.float16).contiguous() for name, weight in state.items()}
    temporary = path.with_suffix(".part")
    save_file(weights, temporary)
    temporary.rename(path)  # atomic: an interrupted run keeps the previous file


def load_state(model: nn.Module, path: Path) -> None:
    """Load weights into a model, in the model's own precision."""
    with torch.no_grad():
        state = load_file(path)
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])


def read_progress(folder: Path, stage: str) -> dict[str, float]:
    """Return the progress that a stage saved, or an empty dict."""
    path = folder / f"{stage}.json"
    if not path.exists():
        return {}
    progress: dict[str, float] = json.loads(path.read_text())
    return progress


def write_progress(folder: Path, stage: str, **values: float) -> None:
    """Save the progress of a stage."""
    (folder / f"{stage}.json").write_text(json.dumps(values))


def pack_archive(run: Path, target: Path) -> None:
    """Write a run's files to `target` as a tar archive in numbered parts of at most PART_BYTES."""
    target.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path in sorted(run.iterdir()):
            if path.suffix in {".safetensors", ".json", ".jsonl"}:
                tar.add(path, path.name)
    whole = data.getvalue()
    for index, start in enumerate(range(0, len(whole), PART_BYTES)):
        (target / f"run.tar.{index}").write_bytes(whole[start : start + PART_BYTES])


def unpack_archive(source: Path, run: Path) -> None:
    """Extract an archive that `pack_archive` wrote into a run's folder."""
    run.mkdir(parents=True, exist_ok=True)
    parts = sorted(source.glob("run.tar.*"))
    if not parts:
        raise SystemExit(
            f"Cannot resume from {source}: it contains no run.tar.* files. "
            "Pass a folder that --archive wrote, or an exported model."
        )
    whole = b"".join(part.read_bytes() for part in parts)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        tar.extractall(run, filter="data")
