"""The colours and backgrounds that a caption can name, with the words that people use for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Colour(NamedTuple):
    """A named colour: red, green and blue from 0 to 255, and the words for it."""

    rgb: tuple[int, int, int]
    words: tuple[str, ...]


class Background(NamedTuple):
    """Two colours, either split at a horizon (a share of the height) or blended from top to bottom."""

    top: tuple[int, int, int]
    bottom: tuple[int, int, int]
    horizon: float
    sharpness: float  # of the split: 3 is a gradient over the whole height, 150 a sharp line
    words: tuple[str, ...]


COLOURS = {
    "white": Colour((252, 252, 252), ("white", "plain white")),
    "black": Colour((18, 18, 22), ("black", "plain black")),
    "gray": Colour((150, 152, 156), ("gray", "grey")),
    "red": Colour((222, 48, 48), ("red", "bright red")),
    "orange": Colour((246, 140, 38), ("orange",)),
    "yellow": Colour((250, 216, 60), ("yellow", "bright yellow")),
    "green": Colour((56, 168, 76), ("green", "bright green")),
    "blue": Colour((46, 108, 222), ("blue", "bright blue")),
    "purple": Colour((132, 72, 192), ("purple", "violet")),
    "pink": Colour((250, 146, 190), ("pink", "hot pink")),
    "brown": Colour((128, 84, 54), ("brown",)),
    "turquoise": Colour((44, 190, 196), ("turquoise", "teal", "cyan")),
    "light gray": Colour((208, 210, 214), ("light gray", "light grey")),
    "dark gray": Colour((78, 80, 86), ("dark gray", "dark grey")),
    "beige": Colour((240, 226, 198), ("beige", "cream")),
    "light blue": Colour((164, 210, 246), ("light blue", "pale blue", "sky blue")),
    "dark blue": Colour((22, 38, 98), ("dark blue", "navy", "navy blue")),
    "light green": Colour((170, 226, 166), ("light green", "pale green", "mint")),
    "dark green": Colour((22, 82, 46), ("dark green",)),
    "dark red": Colour((132, 22, 30), ("dark red",)),
}

# The colours that an object can be recoloured with: those that stay recognisable.
OBJECT_COLOURS = tuple(COLOURS)[:12]

SKIES = {
    "sunset": Background((242, 110, 70), (250, 196, 130), 0.5, 4, (
        "at sunset", "in the sunset", "during sunset", "at dusk"
    )),
    "sunrise": Background((250, 190, 160), (252, 232, 190), 0.5, 4, (
        "at sunrise", "at dawn", "in the morning light"
    )),
    "night": Background((14, 18, 52), (38, 44, 98), 0.5, 4, (
        "at night", "in the night", "under the stars", "in the moonlight", "at midnight"
    )),
    "space": Background((10, 8, 26), (30, 16, 52), 0.5, 4, (
        "in space", "in outer space", "in the galaxy", "among the stars"
    )),
    "sky": Background((112, 182, 244), (200, 230, 252), 0.5, 4, (
        "in the sky", "under a blue sky", "in the clouds", "on a sunny day", "in the air"
    )),
    "storm": Background((74, 82, 98), (130, 138, 152), 0.5, 4, (
        "in a storm", "in the rain", "on a rainy day", "in the fog"
    )),
}  # fmt: skip

GROUNDS = {
    "water": Background((0, 0, 0), (40, 124, 196), 0.62, 150, (
        "over a lake", "over a crystal lake", "on the ocean", "by the sea", "on the water", "at the river",
        "near a lake", "over the sea", "underwater"
    )),
    "grass": Background((0, 0, 0), (98, 182, 76), 0.64, 150, (
        "in a field", "on the grass", "in a meadow", "in the garden", "in a park", "on a green hill"
    )),
    "forest": Background((0, 0, 0), (34, 98, 54), 0.5, 100, (
        "in a forest", "in the jungle", "in the woods", "among trees"
    )),
    "sand": Background((0, 0, 0), (232, 206, 148), 0.64, 150, (
        "in the desert", "on the beach", "on the sand", "on a beach"
    )),
    "snow": Background((0, 0, 0), (240, 246, 252), 0.62, 150, (
        "in the snow", "on the ice", "in winter", "on a snowy day"
    )),
    "street": Background((0, 0, 0), (122, 124, 132), 0.68, 150, (
        "on the street", "on a road", "in the city", "in a town"
    )),
    "table": Background((0, 0, 0), (158, 108, 66), 0.66, 150, (
        "on a table", "on a wooden table", "on the desk", "on a shelf"
    )),
}  # fmt: skip


def nearest_colour_name(rgb: NDArray[np.float32]) -> str | None:
    """Return the one-word name of a colour in [0, 1], or None if no name is close."""
    names = [name for name in COLOURS if " " not in name]
    distances = [float(np.abs(rgb * 255 - COLOURS[name].rgb).sum()) for name in names]
    best = int(np.argmin(distances))
    return names[best] if distances[best] < 140 else None
