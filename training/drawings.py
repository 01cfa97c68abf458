"""The drawings the model learns from: fetched as a package, rendered once, packed into one small archive."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from training.config import DRAWINGS_PACKAGE, RENDERER_PACKAGE
from training.palette import COLOURS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

HERE = Path(__file__).parent
RENDER_SIZE = 256


@dataclass(frozen=True)
class Drawings:
    """All drawings: what they are called, their pixels, and the colour most of each one has."""

    names: list[list[str]]
    pixels: NDArray[np.uint8]  # (drawings, size, size, 4), red green blue alpha
    dominant: NDArray[np.float32]  # (drawings, 3), in [0, 1]

    def __len__(self) -> int:
        return len(self.names)

    def called(self, name: str) -> list[int]:
        """The drawings that bear a name."""
        return [index for index, names in enumerate(self.names) if name in names]


def read_names(path: Path = HERE / "names.txt") -> dict[str, list[str]]:
    """What can be drawn: file name in the set -> names people type."""
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    pairs = (line.split(": ", 1) for line in lines if line and not line.startswith("#"))
    return {file: names.split(", ") for file, names in pairs}


def build(archive: Path) -> None:
    """Fetch the set and the renderer with npm, render every drawing of names.txt, and pack them."""
    if (npm := shutil.which("npm")) is None or (node := shutil.which("node")) is None:
        raise SystemExit("The drawings come as npm packages: install Node.js (with npm) and run this again.")
    names = read_names()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "package.json").write_text('{"private": true}')
        install = [npm, "install", "--no-audit", "--no-fund", "--silent", DRAWINGS_PACKAGE, RENDERER_PACKAGE]
        subprocess.run(install, cwd=folder, check=True)
        (folder / "list").write_text("\n".join(names))
        (folder / "drawn").mkdir()
        drawing_set = DRAWINGS_PACKAGE.removeprefix("@iconify-json/").partition("@")[0]
        where = [HERE / "render.mjs", folder / "node_modules", drawing_set, folder / "list", folder / "drawn"]
        subprocess.run([node, *map(str, where), str(RENDER_SIZE)], check=True)
        pictures = {name: Image.open(folder / "drawn" / f"{name}.png") for name in names}
        pack(archive, names, pictures)


def pack(archive: Path, names: dict[str, list[str]], pictures: Mapping[str, Image.Image]) -> None:
    """Write the archive: names.json and one lossless WebP a drawing."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        out.writestr("names.json", json.dumps(names))
        for name, picture in pictures.items():
            data = io.BytesIO()
            side = max(picture.size)
            square = ImageOps.pad(picture.convert("RGBA"), (side, side), color=(0, 0, 0, 0))
            square.resize((RENDER_SIZE, RENDER_SIZE), Image.Resampling.LANCZOS).save(
                data, "WEBP", lossless=True, method=6
            )
            out.writestr(f"{name}.webp", data.getvalue())


def load(archive: Path, size: int = RENDER_SIZE) -> Drawings:
    """Read an archive, each drawing scaled to `size` pixels a side."""
    with zipfile.ZipFile(archive) as file:
        names: dict[str, list[str]] = json.loads(file.read("names.json"))
        pixels = np.stack([_picture(file.read(f"{name}.webp"), size) for name in names])
    return Drawings(list(names.values()), pixels, np.stack([_dominant(drawing) for drawing in pixels]))


def _picture(data: bytes, size: int) -> NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    return np.asarray(picture if picture.width == size else picture.resize((size, size), Image.Resampling.BOX))


def _dominant(drawing: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The colour that covers most of a drawing: the mean of its fullest cell of a coarse colour grid."""
    opaque = drawing[drawing[..., 3] > 128, :3].astype(np.float32) / 255
    if not len(opaque):
        return np.zeros(3, np.float32)
    cells = (opaque * 5.999).astype(int) @ np.array([36, 6, 1])
    # Vivid colours win over greys of the same area: people name the yellow of a banana, not its outline.
    vivid = 0.5 + opaque.max(1) - opaque.min(1)
    fullest = np.bincount(cells, weights=vivid, minlength=216).argmax()
    mean: NDArray[np.float32] = opaque[cells == fullest].mean(0)
    return mean


def colour_word(rgb: NDArray[np.float32]) -> str | None:
    """The plain colour word for a colour in [0, 1], or None where people would argue."""
    plain = [name for name in COLOURS if " " not in name]
    distances = [float(np.abs(rgb * 255 - COLOURS[name].rgb).sum()) for name in plain]
    best = int(np.argmin(distances))
    return plain[best] if distances[best] < 140 else None
