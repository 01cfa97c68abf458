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


@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_a_private_file_holds_neither_prompts_nor_seed(file_format: str) -> None:
    metadata = {**METADATA, "negative_prompt": "a dog"}
    picture = Picture(Image.new("RGB", (32, 16)), metadata, (16, 16), "folder", "bf16", private=True)
    data = picture.encode(file_format)
    assert read_metadata(data) == {"num_inference_steps": 10, "model": "Ünïcode-1"}
    for text in ("a cat", "a dog"):
        assert text.encode() not in data
        assert text.encode("utf-16-le") not in data
    assert picture.seed == 5
