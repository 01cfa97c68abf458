"""What a finished picture tells in its file and in its headers."""

import pytest
from PIL import Image

from imagegen import image_file
from imagegen.picture import Picture

METADATA: dict[str, object] = {"prompt": "a cat", "seed": 5, "num_inference_steps": 10, "model": "Ünïcode-1"}


def picture(**fields: object) -> Picture:
    return Picture(Image.new("RGB", (32, 16)), METADATA, (16, 16), "folder", "bf16", **fields)


def test_headers_are_ascii_and_name_a_fallback_only_where_there_was_one():
    assert picture().headers == {
        "X-Seed": "5",
        "X-Steps": "10",
        "X-Model": "?n?code-1",
        "X-Model-Origin": "folder",
        "X-Precision": "bf16",
        "X-Drawn-Size": "16x16",
    }
    assert picture(fallback="out-of-memory").headers["X-Fallback"] == "out-of-memory"


@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_the_file_carries_the_metadata(file_format):
    assert image_file.read_metadata(picture().encode(file_format)) == METADATA
