"""The drawings: fetched as an npm package, rendered once, and stored as WebP files in one zip archive."""

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

from training.captions.palette import nearest_colour_name
from training.config import DRAWINGS_PACKAGE, RENDERER_PACKAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

NAMES_FILE = Path(__file__).parents[1] / "captions" / "names.txt"
RENDER_SIZE = 256  # pixels


@dataclass(frozen=True)
class Drawings:
    """All drawings, with their names, pixels and dominant colours."""

    names: list[list[str]]  # of each drawing, the most usual name first
    pixels: NDArray[np.uint8]  # (drawings, size, size, 4), RGBA
    dominant: NDArray[np.float32]  # (drawings, 3), RGB in [0, 1]

    def __len__(self) -> int:
        return len(self.names)

    def indices_of(self, name: str) -> list[int]:
        """Return the indices of the drawings that have a name."""
        return [index for index, names in enumerate(self.names) if name in names]

    def colour_names(self) -> list[str | None]:
        """Return the colour name of each drawing, or None where its dominant colour is ambiguous."""
        return [nearest_colour_name(rgb) for rgb in self.dominant]


def read_names(path: Path = NAMES_FILE) -> dict[str, list[str]]:
    """Return the names of each drawing, by its file name in the npm package."""
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    pairs = (line.split(": ", 1) for line in lines if line and not line.startswith("#"))
    return {file: names.split(", ") for file, names in pairs}


def download(path: Path) -> None:
    """Fetch the drawings and the renderer with npm, render every drawing in names.txt, and write the archive."""
    if (npm := shutil.which("npm")) is None or (node := shutil.which("node")) is None:
        raise SystemExit("The drawings are npm packages. Install Node.js with npm, and run this command again.")
    names = read_names()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "package.json").write_text('{"private": true}')
        install = [npm, "install", "--no-audit", "--no-fund", "--silent", DRAWINGS_PACKAGE, RENDERER_PACKAGE]
        subprocess.run(install, cwd=folder, check=True)
        (folder / "list").write_text("\n".join(names))
        (folder / "rendered").mkdir()
        icon_set = DRAWINGS_PACKAGE.removeprefix("@iconify-json/").partition("@")[0]
        script = Path(__file__).with_name("render.mjs")
        arguments = [script, folder / "node_modules", icon_set, folder / "list", folder / "rendered"]
        subprocess.run([node, *map(str, arguments), str(RENDER_SIZE)], check=True)
        images = {name: Image.open(folder / "rendered" / f"{name}.png") for name in names}
        write(path, names, images)


def write(path: Path, names: dict[str, list[str]], images: Mapping[str, Image.Image]) -> None:
    """Write the archive: names.json, and one lossless WebP file for each drawing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("names.json", json.dumps(names))
        for name, image in images.items():
            data = io.BytesIO()
            side = max(image.size)
            square = ImageOps.pad(image.convert("RGBA"), (side, side), color=(0, 0, 0, 0))
            square.resize((RENDER_SIZE, RENDER_SIZE), Image.Resampling.LANCZOS).save(
                data, "WEBP", lossless=True, method=6
            )
            archive.writestr(f"{name}.webp", data.getvalue())


def read(path: Path, size: int = RENDER_SIZE) -> Drawings:
    """Read an archive, with each drawing scaled to `size` x `size` pixels."""
    with zipfile.ZipFile(path) as archive:
        names: dict[str, list[str]] = json.loads(archive.read("names.json"))
        pixels = np.stack([_decode(archive.read(f"{name}.webp"), size) for name in names])
    return Drawings(list(names.values()), pixels, np.stack([_dominant_colour(drawing) for drawing in pixels]))


def _decode(data: bytes, size: int) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    return np.asarray(image if image.width == size else image.resize((size, size), Image.Resampling.BOX))


def _dominant_colour(drawing: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the colour that covers most of a drawing: the mean of the fullest cell of a 6x6x6 colour grid."""
    opaque = drawing[drawing[..., 3] > 128, :3].astype(np.float32) / 255
    if not len(opaque):
        return np.zeros(3, np.float32)
    cells = (opaque * 5.999).astype(int) @ np.array([36, 6, 1])
    # Vivid colours outweigh greys of the same area: a banana is yellow, whatever the colour of its outline.
    vivid = 0.5 + opaque.max(1) - opaque.min(1)
    fullest = np.bincount(cells, weights=vivid, minlength=216).argmax()
    mean: NDArray[np.float32] = opaque[cells == fullest].mean(0)
    return mean
