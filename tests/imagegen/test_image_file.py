"""Metadata in image files: written, read back, and read with Pillow alone."""

import json
from io import BytesIO

import pytest
from PIL import Image, PngImagePlugin

from imagegen import image_file


def scene() -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (48, 32), (220, 30, 30))
    image.paste((30, 30, 220), (24, 0, 48, 32))
    return image


METADATA: dict[str, object] = {
    "prompt": 'Käse 🧀, "quoted"\nand \\ 月',
    "seed": 2**32 - 1,
    "guidance_scale": 7.5,
    "software": "chutes-selfhosted 0",
}


@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_metadata_can_be_read_back(file_format: str) -> None:
    data = image_file.encode_image(scene(), file_format, METADATA)
    assert image_file.read_metadata(data) == METADATA
    assert image_file.encode_image(scene(), file_format, METADATA) == data
    with Image.open(BytesIO(data)) as image:
        assert image.format == file_format.upper()
        assert image.size == (48, 32)


def test_metadata_with_pillow_alone() -> None:
    """As docs/image-service.md shows it."""
    with Image.open(BytesIO(image_file.encode_image(scene(), "png", METADATA))) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.text["prompt"] == METADATA["prompt"]
        assert image.text["seed"] == str(METADATA["seed"])
    with Image.open(BytesIO(image_file.encode_image(scene(), "jpeg", METADATA))) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert json.loads(comment[8:].decode("utf-16-le")) == METADATA


@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_the_longest_prompts_fit(file_format: str) -> None:
    longest = {"prompt": "🧀" * 5000, "negative_prompt": '"' * 5000, "seed": 1}
    assert image_file.read_metadata(image_file.encode_image(scene(), file_format, longest)) == longest


@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_files_of_other_programs_have_no_metadata(file_format: str) -> None:
    buffer = BytesIO()
    scene().save(buffer, file_format.upper())
    assert image_file.read_metadata(buffer.getvalue()) == {}


def test_a_higher_quality_gives_a_larger_file() -> None:
    noise = Image.effect_noise((128, 128), 60).convert("RGB")
    assert len(image_file.encode_image(noise, "jpeg", quality=90)) > len(image_file.encode_image(noise, "jpeg"))
