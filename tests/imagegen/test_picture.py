"""An image file carries its metadata."""

import pytest
from PIL import Image

from imagegen.image_file import read_metadata
from imagegen.picture import Picture

METADATA: dict[str, object] = {"prompt": "a cat", "seed": 5, "num_inference_steps": 10, "model": "Ünïcode-1"}


@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_the_file_carries_the_metadata(file_format: str) -> None:
    picture = Picture(Image.new("RGB", (32, 16)), METADATA, (16, 16), "folder", "bf16")
    assert read_metadata(picture.encode(file_format)) == METADATA
    assert picture.seed == 5
