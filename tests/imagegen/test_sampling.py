"""Image to image, inpainting, negative prompts and sizes: what the pipelines receive and return."""

import asyncio
import itertools
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagegen import image_file, models
from imagegen.engine import Engine
from imagegen.errors import InputError
from imagegen.request import Request
from imagegen.settings import Settings


def photo(width: int = 200, height: int = 150) -> Image.Image:
    """A smooth image with a little noise, so that every pixel matters."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 8, (height, width))
    pixels = np.stack([x * 247 // width + noise, y * 247 // height + noise, (x + y) % 248 + noise], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def img2img(image: Image.Image | None = None, **fields: object) -> Request:
    return Request("a cat", image=image or photo(), **{"seed": 1, "steps": 28, **fields})


def inpaint(mask: Image.Image, image: Image.Image | None = None, **fields: object) -> Request:
    return img2img(image, mask=mask, **fields)


def difference(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


@pytest.fixture(scope="module")
def any_size(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An engine whose model generates any size, as FLUX.1 does."""
    from tests.imagegen import tiny

    folder = tiny.write(tmp_path_factory.mktemp("models") / "any")
    engine = Engine(models.load(str(folder), settings=Settings()))
    engine.start()
    yield engine
    engine.stop()


@pytest.mark.parametrize(
    ("size", "generated"), [((128, 128), (128, 128)), ((333, 130), (336, 144)), ((250, 512), (256, 512))]
)
def test_any_size_is_generated_at_the_next_multiple_and_cropped(
    any_size: Any, size: tuple[Any, ...], generated: tuple[Any, ...]
) -> None:
    request = Request("a cat", width=size[0], height=size[1], steps=1)
    picture = asyncio.run(any_size.generate(request))
    assert (picture.image.size, picture.generated_size) == (size, generated)


def test_the_pixels_are_those_of_diffusers(any_size: Any) -> None:
    """Cropping and converting do not change what the pipeline returns."""
    import torch

    pipeline = any_size.model.pipeline
    generator = torch.Generator().manual_seed(5)
    arguments = {"max_sequence_length": 32, "guidance_scale": 7.5, "num_inference_steps": 3}
    theirs = pipeline("a cat", width=144, height=128, generator=generator, **arguments).images[0]
    request = Request("a cat", width=144, height=128, steps=3, seed=5)
    assert asyncio.run(any_size.generate(request)).image.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("size", [(200, 150), (16, 16), (17, 300), (640, 64)])
def test_img2img_keeps_the_inputs_size(engine: Engine, size: tuple[Any, ...]) -> None:
    picture = asyncio.run(engine.generate(img2img(photo(*size))))
    assert picture.image.size == size


def test_img2img_at_another_size(engine: Engine) -> None:
    picture = asyncio.run(engine.generate(img2img(width=400, height=300)))
    assert picture.image.size == (400, 300)
    assert asyncio.run(engine.generate(img2img(width=400))).image.size == (400, 300)


def test_more_strength_changes_the_image_more(any_size: Any) -> None:
    """More strength starts from more noise, so images of two seeds differ more."""

    def spread(strength: float) -> float:
        first, second = (asyncio.run(any_size.generate(img2img(strength=strength, seed=seed))).image for seed in (1, 2))
        return difference(first, second)

    spreads = [round(spread(strength), 3) for strength in (0.1, 0.3, 0.6, 1.0)]
    print(f"difference between two seeds at strength 0.1, 0.3, 0.6, 1.0: {spreads}")
    assert all(more > less - 0.5 for less, more in itertools.pairwise(spreads))
    assert spreads[-1] > 2 * spreads[0]


@pytest.mark.parametrize(("steps", "strength", "done"), [(10, 1.0, 10), (10, 0.5, 5), (28, 0.75, 21), (1, 0.1, 1)])
def test_strength_is_the_share_of_the_steps(engine: Engine, steps: int, strength: float, done: int) -> None:
    seen = []
    request = img2img(steps=steps, strength=strength)
    asyncio.run(engine.generate(request, on_step=lambda *step: seen.append(step)))
    assert len(seen) == done
    assert seen[-1] == (done, done)


@pytest.mark.parametrize("size", [(200, 150), (128, 128), (67, 200)])
def test_pixels_under_black_stay_bit_for_bit(engine: Engine, size: tuple[Any, ...]) -> None:
    image, mask = photo(*size), Image.new("L", size)
    mask.paste(255, (10, 10, 50, 45))
    picture = asyncio.run(engine.generate(inpaint(mask, image, strength=1.0)))
    kept = np.asarray(mask) == 0
    before, after = np.asarray(image), np.asarray(picture.image)
    changed = (before != after).any(-1)
    print(f"{kept.sum()} pixels kept, {changed[kept].sum()} of them changed; {changed[~kept].mean():.0%} repainted")
    assert picture.image.size == size
    assert not changed[kept].any()
    assert changed[~kept].mean() > 0.9
    assert Image.open(BytesIO(picture.encode("png"))).tobytes() == picture.image.tobytes()


def test_a_black_mask_changes_nothing(engine: Engine) -> None:
    picture = asyncio.run(engine.generate(inpaint(Image.new("L", (200, 150)))))
    assert picture.image.tobytes() == photo().tobytes()


def test_a_hole_smaller_than_the_grid_is_repainted_too(any_size: Any) -> None:
    """The mask is dilated to whole cells for the model; afterwards pixels under black are restored."""
    mask = Image.new("L", (128, 128))
    mask.putpixel((61, 61), 255)
    image = Image.new("RGB", (128, 128), "white")
    picture = asyncio.run(any_size.generate(inpaint(mask, image, strength=1.0)))
    changed = (np.asarray(picture.image) != 255).any(-1)
    assert changed.nonzero() == ([61], [61])


def test_a_negative_prompt_changes_the_image(engine: Engine) -> None:
    def generate(**fields: object) -> bytes:
        request = Request("a cat", steps=2, seed=1, **fields)
        return asyncio.run(engine.generate(request)).image.tobytes()

    plain = generate()
    assert generate(negative_prompt="  ") == plain
    with pytest.raises(InputError, match="negative_prompt has an effect only with a true_cfg_scale above 1"):
        generate(negative_prompt="blue", true_cfg_scale=1.0)
    assert generate(negative_prompt="blue") == generate(negative_prompt="blue", true_cfg_scale=2.0) != plain


def test_the_file_holds_the_request(engine: Engine) -> None:
    picture = asyncio.run(engine.generate(img2img(negative_prompt="blue")))
    metadata = image_file.read_metadata(picture.encode("webp"))
    assert metadata["prompt"] == "a cat"
    assert metadata["negative_prompt"] == "blue"
    assert (metadata["seed"], metadata["strength"], metadata["num_inference_steps"]) == (1, 0.75, 28)
    assert (metadata["width"], metadata["height"], metadata["model"]) == (200, 150, "tiny-random")
    assert not {"image", "mask"} & set(metadata)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torch 2, numpy 2, diffusers
def test_sdxl_has_every_task_and_its_own_size(tmp_path: Path) -> None:
    """Another architecture in the same engine: a UNet with classifier-free guidance."""
    from tests.imagegen import tiny

    engine = Engine(models.load(str(tiny.write_sdxl(tmp_path)), settings=Settings()))
    engine.start()
    try:
        request = Request("a cat", width=512, height=256, steps=2, negative_prompt="blue")
        picture = asyncio.run(engine.generate(request))
        assert (picture.image.size, picture.generated_size) == ((512, 256), (224, 112))
        assert asyncio.run(engine.generate(img2img(strength=0.1, steps=2))).image.size == (200, 150)
        picture = asyncio.run(engine.generate(inpaint(Image.new("L", (200, 150)))))
        assert picture.image.tobytes() == photo().tobytes()
    finally:
        engine.stop()
