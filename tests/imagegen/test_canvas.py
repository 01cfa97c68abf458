"""From the requested size to the generated one and back, for every size."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagegen.canvas import cover, dilate_mask, fit_canvas, limit_area, size_like
from imagegen.profile import Sizes

ANY, SMALL, SDXL = Sizes(16), Sizes(16, longest_side=256), Sizes(16, None, 2**19, 2**20)
sides = st.integers(128, 2048)


@given(sides, sides, st.sampled_from([ANY, SMALL, SDXL]), st.sampled_from([1.0, 0.5]))
def test_a_canvas_has_the_models_multiples_and_contains_the_kept_middle(
    width: Any, height: Any, sizes: Any, shrink: Any
) -> None:
    canvas = fit_canvas((width, height), sizes, shrink=shrink)
    assert all(side % 16 == 0 for side in canvas.size)
    assert all(0 <= generated - inner < 16 for generated, inner in zip(canvas.size, canvas.inner, strict=True))


@pytest.mark.parametrize(
    ("requested", "sizes", "generated"),
    [
        ((1024, 1024), ANY, (1024, 1024)),
        ((1920, 1080), ANY, (1920, 1088)),
        ((129, 2047), ANY, (144, 2048)),
        ((64, 32), ANY, (256, 128)),
        ((16, 2048), ANY, (16, 2048)),
        ((1024, 1024), SMALL, (256, 256)),
        ((128, 128), SMALL, (256, 256)),
        ((1920, 1080), SMALL, (256, 144)),
        ((1024, 1024), SDXL, (1024, 1024)),
        ((2048, 2048), SDXL, (1024, 1024)),
        ((2048, 1024), SDXL, (1456, 736)),
        ((1000, 600), SDXL, (1008, 608)),
        ((512, 256), SDXL, (1024, 512)),
    ],
)
def test_canvas_sizes(requested: tuple[Any, ...], sizes: Any, generated: tuple[Any, ...]) -> None:
    assert fit_canvas(requested, sizes).size == generated


def test_out_of_memory_halves_the_sides() -> None:
    assert fit_canvas((1920, 1080), ANY, shrink=0.5).size == (960, 544)


@given(sides, sides)
def test_pad_and_crop_are_exact_without_scaling(width: Any, height: Any) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    canvas = fit_canvas((width, height), ANY)
    padded = canvas.pad(image)
    assert padded.size == canvas.size
    assert canvas.crop(padded).tobytes() == image.tobytes()


@pytest.mark.parametrize("sizes", [ANY, SMALL, SDXL])
def test_a_cropped_image_has_the_requested_size(sizes: Any) -> None:
    for requested in [(128, 128), (1920, 1080), (131, 1999), (16, 2048), (2048, 16)]:
        canvas = fit_canvas(requested, sizes)
        assert canvas.crop(Image.new("RGB", canvas.size)).size == requested
        assert canvas.pad(Image.new("L", requested)).size == canvas.size


def test_padding_repeats_the_edges() -> None:
    image = Image.new("RGB", (130, 130), "black")
    image.paste("white", (0, 0, 1, 130))
    assert fit_canvas((130, 130), ANY).pad(image).getpixel((0, 70)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (None, None, (300, 200)),
        (600, None, (600, 400)),
        (None, 400, (600, 400)),
        (512, 512, (512, 512)),
        (2048, None, (2048, 1365)),
        (None, 128, (192, 128)),
        (128, None, (128, 128)),
    ],
)
def test_size_like(width: int | None, height: int | None, size: tuple[Any, ...]) -> None:
    assert size_like((300, 200), width, height) == size


def test_cover_crops_the_longer_sides_equally() -> None:
    wide = Image.new("RGB", (400, 100), "black")
    wide.paste("white", (150, 0, 250, 100))
    assert np.asarray(cover(wide, (128, 128)).crop((4, 4, 124, 124))).min() > 250


def test_a_dilated_mask_has_whole_cells() -> None:
    mask = Image.new("L", (64, 64))
    mask.putpixel((17, 40), 255)
    cells = np.asarray(dilate_mask(mask, 8)).reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(64, 64)
    assert cells.max(1).nonzero()[0].tolist() == [5 * 8 + 2]
    assert cells.min(1).nonzero()[0].tolist() == [5 * 8 + 2]
    assert set(np.unique(cells)) == {0, 255}


@pytest.mark.parametrize(
    ("size", "limited"), [((1024, 1024), (1024, 1024)), ((2048, 1024), (1448, 724)), ((9, 7), (9, 7))]
)
def test_references_have_at_most_a_megapixel(size: tuple[int, int], limited: tuple[int, int]) -> None:
    assert limit_area(Image.new("RGB", size), 1024**2).size == limited
