"""Render scenes to pixels in batches, on the device that holds the drawings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from training.captions.scenes import OBJECT_COLUMNS

if TYPE_CHECKING:
    from torch import Tensor

    from training.drawings.dataset import Drawings

LUMA = (0.299, 0.587, 0.114)
CHROMA_DISTANCE = 0.16  # up to this distance from the dominant colour, a pixel is fully recoloured


class Composer:
    """A renderer of scenes, which keeps all drawings on the device."""

    def __init__(self, drawings: Drawings, device: torch.device) -> None:
        self.size = drawings.pixels.shape[1]
        self.bank = torch.from_numpy(drawings.pixels).permute(0, 3, 1, 2).contiguous().to(device)
        self.dominant = torch.from_numpy(drawings.dominant).to(device)
        self.device = device
        self.dtype = torch.float16 if device.type == "cuda" else torch.float32

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Tensor:
        """Render rows (batch, `scenes.COLUMNS`) to images (batch, 3, size, size) in [-1, 1]."""
        rows = rows.to(self.device)
        width = len(OBJECT_COLUMNS)
        image = self._background(rows[:, 2 * width :])
        for slot in (rows[:, :width], rows[:, width : 2 * width]):
            present = (slot[:, 0] >= 0).nonzero()[:, 0]
            if len(present):
                image[present] = self._paste(image[present], slot[present])
        return image.clamp(0, 1) * 2 - 1

    def _background(self, background: Tensor) -> Tensor:
        """Return the background: two colours, split or blended at the horizon."""
        y = torch.linspace(0, 1, self.size, device=self.device)[None, None, :, None]
        top, bottom, horizon, sharpness = background[:, 0:3], background[:, 3:6], background[:, 6], background[:, 7]
        share = torch.sigmoid((y - horizon[:, None, None, None]) * sharpness[:, None, None, None])
        mixed = top[:, :, None, None] * (1 - share) + bottom[:, :, None, None] * share
        return mixed.to(self.dtype).expand(-1, -1, -1, self.size).contiguous()

    def _paste(self, image: Tensor, slot: Tensor) -> Tensor:
        """Paste one drawing per scene over the images: recoloured, scaled, rotated and mirrored."""
        index, x, y, scale, angle, mirror, recoloured = slot[:, :7].unbind(1)
        drawing = self.bank[index.long()].to(self.dtype) / 255
        colour = torch.where(
            recoloured[:, None, None, None] > 0,
            recolour(drawing, self.dominant[index.long()], slot[:, 7:10]),
            drawing[:, :3],
        )
        texture = torch.cat((colour * drawing[:, 3:], drawing[:, 3:]), 1)
        # A box blur before shrinking avoids aliasing in small objects.
        blurred = F.interpolate(F.avg_pool2d(texture, 2), scale_factor=2, mode="bilinear", align_corners=False)
        texture = torch.where(scale[:, None, None, None] < 0.6, blurred, texture)
        cos, sin = angle.cos() / scale, angle.sin() / scale
        flip = 1 - 2 * mirror
        x, y = 2 * x - 1, 2 * y - 1
        matrix = torch.stack(
            (cos * flip, sin * flip, -(x * cos + y * sin) * flip, -sin, cos, x * sin - y * cos), 1
        ).view(-1, 2, 3)
        grid = F.affine_grid(matrix, list(texture.shape), align_corners=False).to(self.dtype)
        placed = F.grid_sample(texture, grid, align_corners=False)
        return image * (1 - placed[:, 3:]) + placed[:, :3]


def recolour(drawing: Tensor, dominant: Tensor, target: Tensor) -> Tensor:
    """Change a drawing's dominant colour to a target colour and keep the shading.

    Shapes: (batch, 4, size, size), (batch, 3), (batch, 3), all in [0, 1] -> (batch, 3, size, size).
    """
    rgb = drawing[:, :3]
    luma = rgb.new_tensor(LUMA)[:, None, None]
    dominant, target = dominant.to(rgb.dtype)[:, :, None, None], target.to(rgb.dtype)[:, :, None, None]
    light, own_light = (rgb * luma).sum(1, keepdim=True), (dominant * luma).sum(1, keepdim=True)
    chroma, own_chroma = rgb - light, dominant - own_light
    # Hue matters more than saturation: a shaded red is still red. Greys must also have a similar lightness.
    strength = own_chroma.abs().amax(1, keepdim=True)
    grey = (strength < 0.08).to(rgb.dtype)
    shade = (light / own_light.clamp(min=0.05)).clamp(0.3, 2)
    distance = (chroma - own_chroma * shade).abs().amax(1, keepdim=True)
    distance = torch.minimum(distance, (chroma - own_chroma).abs().amax(1, keepdim=True))
    distance = distance + grey * (light - own_light).abs() * 0.5
    share = ((1.6 * CHROMA_DISTANCE - distance) / (0.6 * CHROMA_DISTANCE)).clamp(0, 1)
    moved = target + (light - own_light) * 0.7
    return rgb * (1 - share) + moved.clamp(0, 1) * share
