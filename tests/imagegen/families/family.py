"""What a family is: a pipeline with random weights, and how models of that architecture are used."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

Task = Literal["text2image", "img2img", "inpaint", "edit"]


@dataclass(frozen=True)
class Family:
    """A model family. `write` makes a folder of tiny random weights; the rest says how the real models are used.

    - `name`: the model's name, also good for a folder.
    - `build`: returns the pipeline that is saved.
    - `tasks`: what the weights can do; "edit" follows an instruction and has no `strength`.
    - `steps`, `guidance`: the defaults of the real model; `guidance` is None where guidance has no effect.
    - `negative`: whether a negative prompt has an effect.
    - `tokens`: number of prompt tokens that the pipeline sends by default; None if it is the tokenizer's alone.
    - `shrink`: makes pipelines that always draw about a megapixel draw a sixteenth of it, which is faster.
    - `refused`: a word of the reason why the service must refuse the folder; empty if it must load.
    - `safetensors`: False for weights in `.bin` files.
    - `finish`: changes the saved folder, for what `save_pretrained` cannot write.
    """

    name: str
    build: Callable[[], Any]
    tasks: tuple[Task, ...] = ("text2image", "img2img", "inpaint")
    steps: int = 50
    guidance: float | None = 5.0
    negative: bool = True
    tokens: int | None = 512
    shrink: Callable[[Any, pytest.MonkeyPatch], None] | None = field(default=None, repr=False)
    refused: str = ""
    finish: Callable[[Path], None] | None = field(default=None, repr=False)
    safetensors: bool = True

    def write(self, folder: Path) -> Path:
        """Write the model into `folder` and return it."""
        import torch

        torch.manual_seed(0)
        with warnings.catch_warnings(action="ignore"):  # diffusers uses what it and others have deprecated
            self.build().save_pretrained(folder, safe_serialization=self.safetensors)
        if self.finish:
            self.finish(folder)
        return folder


def edit_index(folder: Path, **entries: Any) -> None:
    """Change entries of `model_index.json`."""
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **entries}))
