"""What a request refuses, and the task and the size that follow from its fields."""

import dataclasses
from typing import Any

import pytest
from PIL import Image

from imagegen.request import Request

PHOTO = Image.new("RGB", (300, 200))
MASK = Image.new("L", (300, 200))


def test_the_images_decide_the_task() -> None:
    assert Request("a cat").task == "text2image"
    assert Request("a cat", image=PHOTO).task == "img2img"
    assert Request("a cat", image=PHOTO, mask=MASK).task == "inpaint"


def test_the_size_is_the_given_one_or_the_images() -> None:
    assert Request("a cat").size == (1024, 1024)
    assert Request("a cat", width=640, height=448).size == (640, 448)
    assert Request("a cat", image=PHOTO).size == (300, 200)
    assert Request("a cat", image=PHOTO, width=600).size == (600, 400)
    assert Request("a cat", image=Image.new("RGB", (16, 20))).size == (16, 20)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 127}, "width must be from 128 to 2048 pixels; got 127"),
        ({"height": 2049}, "height must be from 128 to 2048 pixels; got 2049"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"strength": 0.0}, "strength must be above 0 and at most 1; got 0"),
        ({"strength": float("nan")}, "strength must be above 0 and at most 1; got nan"),
        ({"seed": -1}, "seed must be from 0 to 4294967295; got -1"),
        ({"image": Image.new("RGBA", (64, 64))}, "image must have mode RGB; got RGBA"),
        ({"image": PHOTO, "references": (PHOTO, PHOTO.convert("L"))}, "references must have mode RGB; got L"),
        ({"mask": MASK}, "mask needs an image"),
        ({"image": PHOTO, "mask": PHOTO}, "mask must have mode L; got RGB"),
        ({"image": PHOTO, "mask": Image.new("L", (30, 20))}, "got 30x20 for an image of 300x200"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Request("a cat", **fields)


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request("a cat").seed = 1
