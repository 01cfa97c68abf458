"""Fit requested image sizes to the sizes that a model generates, and crop generated images to the requested size.

A model generates multiples of its patch size, and some models only work near one size. So the model generates a canvas:
the requested image, scaled to suit the model and padded to a multiple of the patch size. The padding is cropped off
again and the rest is scaled to the requested size.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from imagegen.limits import MAX_SIDE, MIN_SIDE
from imagegen.profile import Sizes

Size = tuple[int, int]  # (width, height), as in Pillow


@dataclass(frozen=True)
class Canvas:
    """A generated image's sizes, each (width, height) in pixels.

    - `size`: the size that the model generates.
    - `inner`: the part in the centre that is kept.
    - `result`: the requested size, to which that part is scaled.
    """

    size: Size
    inner: Size
    result: Size

    def pad(self, image: Image.Image) -> Image.Image:
        """Scale an input image from `result` to `inner` and pad it to `size` by repeating its edges."""
        pixels = np.asarray(_resize(image, self.inner))
        left, top = self._offset
        right = self.size[0] - self.inner[0] - left
        bottom = self.size[1] - self.inner[1] - top
        pad = [(top, bottom), (left, right), (0, 0)][: pixels.ndim]
        return Image.fromarray(np.pad(pixels, pad, mode="edge"))

    def crop(self, image: Image.Image) -> Image.Image:
        """Crop a generated image to `inner` and scale it to `result`.

        An image of another size than `size` counts as the whole canvas, scaled by the model.
        """
        left, top = self._offset
        box = left, top, left + self.inner[0], top + self.inner[1]
        if image.size == self.size:
            return _resize(image.crop(box), self.result)
        across, down = image.width / self.size[0], image.height / self.size[1]
        scaled = box[0] * across, box[1] * down, box[2] * across, box[3] * down
        return image.resize(self.result, Image.Resampling.LANCZOS, box=scaled)

    @property
    def _offset(self) -> Size:
        return (self.size[0] - self.inner[0]) // 2, (self.size[1] - self.inner[1]) // 2


def fit_canvas(result: Size, sizes: Sizes, *, shrink: float = 1.0) -> Canvas:
    """Return the canvas for a result of this size; `shrink` scales the canvas's sides, to save memory."""
    scale = sizes.scale(*result) * shrink
    inner = max(1, round(result[0] * scale)), max(1, round(result[1] * scale))
    width, height = (math.ceil(side / sizes.multiple) * sizes.multiple for side in inner)
    return Canvas((width, height), inner, result)


def size_like(image_size: Size, width: int | None, height: int | None) -> Size:
    """Return the requested size; a missing side follows from the image's proportions, and both from its size."""
    if width is None:
        if height is None:
            return image_size
        width = round(image_size[0] * height / image_size[1])
    elif height is None:
        height = round(image_size[1] * width / image_size[0])
    return _clamp(width), _clamp(height)


def _clamp(side: int) -> int:
    return min(max(side, MIN_SIDE), MAX_SIDE)


def cover(image: Image.Image, size: Size) -> Image.Image:
    """Scale an image until it covers `size`, then crop the excess equally on both sides."""
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def limit_area(image: Image.Image, most: int) -> Image.Image:
    """Scale an image down to at most `most` pixels, in its proportions."""
    scale = math.sqrt(most / (image.width * image.height))
    return _resize(image, (int(image.width * scale), int(image.height * scale))) if scale < 1 else image


def dilate_mask(mask: Image.Image, cell: int) -> Image.Image:
    """Dilate a mask to the grid of latents: a cell of `cell` x `cell` pixels with any white in it becomes white."""
    cells = mask.resize((mask.width // cell, mask.height // cell), Image.Resampling.BOX, reducing_gap=None)
    return cells.point(lambda value: 255 if value else 0).resize(mask.size, Image.Resampling.NEAREST)


def _resize(image: Image.Image, size: Size) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
