"""Sizes: from the requested size to the one that the model generates, and back.

A model generates multiples of its patch size, and some models only near one size. So a picture is generated on a
canvas: the smallest size that the model accepts whose middle, scaled, is the requested picture.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

Size = tuple[int, int]  # (width, height), as in Pillow

SMALLEST, LARGEST = 128, 2048  # sides of a requested picture, in pixels


@dataclass(frozen=True)
class Sizes:
    """The sizes that a model generates: multiples of `multiple`.

    With `side`, only pictures whose longest side has that many pixels; with `area`, only of about that many pixels.
    """

    multiple: int
    side: int | None = None
    area: int | None = None

    def scale(self, width: int, height: int) -> float:
        """Return the factor from the requested to the generated size."""
        if self.side:
            return self.side / max(width, height)
        if self.area:
            return math.sqrt(self.area / (width * height))
        # Input images may be smaller than SMALLEST; a model of any size generates those larger.
        return max(1.0, min(SMALLEST / min(width, height), LARGEST / max(width, height)))


@dataclass(frozen=True)
class Canvas:
    """The size that the model generates (`size`), its middle that is kept (`inner`), and the size of the result."""

    size: Size
    inner: Size
    result: Size

    def pad(self, image: Image.Image) -> Image.Image:
        """Scale an image of the result's size to `inner` and repeat its edges outwards up to `size`."""
        pixels = np.asarray(_resize(image, self.inner))
        left, top = self._offset
        right = self.size[0] - self.inner[0] - left
        bottom = self.size[1] - self.inner[1] - top
        pad = [(top, bottom), (left, right), (0, 0)][: pixels.ndim]
        return Image.fromarray(np.pad(pixels, pad, mode="edge"))

    def crop(self, image: Image.Image) -> Image.Image:
        """Cut the middle out of a generated image and scale it to the result's size."""
        left, top = self._offset
        return _resize(image.crop((left, top, left + self.inner[0], top + self.inner[1])), self.result)

    @property
    def _offset(self) -> Size:
        return (self.size[0] - self.inner[0]) // 2, (self.size[1] - self.inner[1]) // 2


def fit_canvas(result: Size, sizes: Sizes, *, shrink: float = 1.0) -> Canvas:
    """Return the canvas for a result of this size, its sides `shrink` times as long as the model would have them."""
    scale = sizes.scale(*result) * shrink
    inner = max(1, round(result[0] * scale)), max(1, round(result[1] * scale))
    width, height = (math.ceil(side / sizes.multiple) * sizes.multiple for side in inner)
    return Canvas((width, height), inner, result)


def size_like(image: Size, width: int | None, height: int | None) -> Size:
    """Return the requested size: the image's own if no side is given, in the image's proportions if one side is."""
    if width is None and height is None:
        return image
    if width is None:
        width = round(image[0] * (height or 0) / image[1])
    elif height is None:
        height = round(image[1] * width / image[0])
    return tuple(min(max(side or 0, SMALLEST), LARGEST) for side in (width, height))  # type: ignore[return-value]


def cover(image: Image.Image, size: Size) -> Image.Image:
    """Scale an image until it covers `size`, then crop what is too much, equally on both sides."""
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def dilate_mask(mask: Image.Image, cell: int) -> Image.Image:
    """Grow a mask to the model's grid of latents, `cell` pixels each: a cell with any white in it becomes white."""
    cells = mask.resize((mask.width // cell, mask.height // cell), Image.Resampling.BOX, reducing_gap=None)
    return cells.point(lambda value: 255 if value else 0).resize(mask.size, Image.Resampling.NEAREST)


def _resize(image: Image.Image, size: Size) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
