"""From the size asked for to the size drawn, and back.

A model draws in multiples of its patch, some only near one size. So a picture is drawn on a canvas: the
smallest that the model takes whose middle, scaled, is what was asked for.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

Size = tuple[int, int]  # (width, height), as Pillow has it

SMALLEST, LARGEST = 128, 2048  # what any model is asked to draw, in pixels a side


@dataclass(frozen=True)
class Sizes:
    """What a model draws: multiples of `multiple`; with `side` or `area`, that longest side or area only."""

    multiple: int
    side: int | None = None
    area: int | None = None

    def scale(self, width: int, height: int) -> float:
        """Return how much larger than asked for a picture is drawn."""
        if self.side:
            return self.side / max(width, height)
        if self.area:
            return math.sqrt(self.area / (width * height))
        # Inputs may be smaller than any picture that is asked for; a model of many sizes draws those larger.
        return max(1.0, min(SMALLEST / min(width, height), LARGEST / max(width, height)))


@dataclass(frozen=True)
class Canvas:
    """What is drawn (`size`), the middle that is kept (`inner`), and what that is scaled to (`asked`)."""

    size: Size
    inner: Size
    asked: Size

    def pad(self, image: Image.Image) -> Image.Image:
        """Put an image of the size asked for on the canvas, its edges repeated outwards."""
        pixels = np.asarray(_resize(image, self.inner))
        left, top = self._offset
        right = self.size[0] - self.inner[0] - left
        bottom = self.size[1] - self.inner[1] - top
        pad = [(top, bottom), (left, right), (0, 0)][: pixels.ndim]
        return Image.fromarray(np.pad(pixels, pad, mode="edge"))

    def crop(self, drawn: Image.Image) -> Image.Image:
        """Return the middle of what was drawn, at exactly the size asked for."""
        left, top = self._offset
        return _resize(drawn.crop((left, top, left + self.inner[0], top + self.inner[1])), self.asked)

    @property
    def _offset(self) -> Size:
        return (self.size[0] - self.inner[0]) // 2, (self.size[1] - self.inner[1]) // 2


def fit_canvas(asked: Size, sizes: Sizes, *, shrink: float = 1.0) -> Canvas:
    """Return the canvas on which a picture of the size asked for is drawn, `shrink` times as large."""
    scale = sizes.scale(*asked) * shrink
    inner = max(1, round(asked[0] * scale)), max(1, round(asked[1] * scale))
    width, height = (math.ceil(side / sizes.multiple) * sizes.multiple for side in inner)
    return Canvas((width, height), inner, asked)


def size_like(image: Size, width: int | None, height: int | None) -> Size:
    """Return the size asked for: the image's own if none is given, in its proportions if one side is."""
    if width is None and height is None:
        return image
    if width is None:
        width = round(image[0] * (height or 0) / image[1])
    elif height is None:
        height = round(image[1] * width / image[0])
    return tuple(min(max(side or 0, SMALLEST), LARGEST) for side in (width, height))  # type: ignore[return-value]


def cover(image: Image.Image, size: Size) -> Image.Image:
    """Scale an image until it covers `size`, and cut off what stands over on both sides."""
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def dilate_mask(mask: Image.Image, cell: int) -> Image.Image:
    """Grow a mask to the model's grid, so that every cell with any white in it is repainted whole."""
    cells = mask.resize((mask.width // cell, mask.height // cell), Image.Resampling.BOX, reducing_gap=None)
    return cells.point(lambda value: 255 if value else 0).resize(mask.size, Image.Resampling.NEAREST)


def _resize(image: Image.Image, size: Size) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
