"""`/generate` draws the named object, `/img2img` follows its strength, and `/inpaint` follows the prompt.

A classifier of training/, which was trained on the same drawings, judges what an image shows.
"""

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from benchmarks.harness.server import Server
from training import config, evaluate
from training.drawings import dataset
from training.models import classifier

NAMES = list(dataset.read_names().values())
THINGS = [
    "red apple", "cat", "rocket", "hamburger", "sunflower", "penguin", "octopus", "strawberry", "pizza", "car",
    "guitar", "umbrella", "crown", "pumpkin", "snowman", "soccer ball",
]  # fmt: skip
STEPS = 8  # enough for a recognizable image


@pytest.fixture(scope="module")
def judge() -> classifier.Classifier:
    return classifier.load(config.FULL, NAMES)


def shows(judge: classifier.Classifier, picture: Image.Image, name: str) -> bool:
    """Return whether a drawing of that name is among the five best matches."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        best = judge(pixels)[0].topk(5).indices.tolist()
    return any(name in NAMES[index] for index in best)


def b64(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(service: Server, path: str, **request: object) -> Image.Image:
    answer = service.post(path, json={"num_inference_steps": STEPS, **request})
    assert answer.status_code == 200, answer.text
    return Image.open(BytesIO(answer.content)).convert("RGB")


def test_the_named_object_is_drawn_on_the_named_background(service: Server, judge: classifier.Classifier) -> None:
    colours = ["white", "blue", "yellow", "green"]
    requests = [(name, colours[at % len(colours)], at) for at, name in enumerate(THINGS)]
    pictures = {
        each: ask(service, "/generate", prompt="a {} on a {} background".format(*each[:2]), seed=each[2])
        for each in requests
    }
    named = [name for (name, _, _), picture in pictures.items() if shows(judge, picture, name)]
    backgrounds = [
        colour for (_, colour, _), picture in pictures.items() if evaluate.background_colour(picture) == colour
    ]
    print(f"{len(named)} of {len(requests)} things named, {len(backgrounds)} of {len(requests)} backgrounds right")
    assert len(named) >= 0.8 * len(requests)
    assert len(backgrounds) >= 0.9 * len(requests)


def test_img2img_stays_close_only_at_a_low_strength(service: Server) -> None:
    prompt = {"prompt": "a cat on a yellow background"}
    given = ask(service, "/generate", prompt="a dog on a blue background", seed=1, width=256, height=256)
    moved = {
        strength: np.abs(
            np.asarray(ask(service, "/img2img", **prompt, image_b64=b64(given), strength=strength, seed=2), float)
            - np.asarray(given, float)
        ).mean()
        for strength in (0.3, 1.0)
    }
    print(f"mean distance to the input, of 255: {moved[0.3]:.1f} at strength 0.3, {moved[1.0]:.1f} at 1.0")
    assert moved[0.3] < 25
    assert moved[1.0] > 2 * moved[0.3]


def test_inpaint_fills_the_mask_with_the_prompt(service: Server, judge: classifier.Classifier) -> None:
    around = Image.new("RGB", (256, 256), (250, 216, 60))
    mask = Image.new("L", (256, 256))
    ImageDraw.Draw(mask).rectangle((28, 28, 228, 228), fill=255)
    request = {"image_b64": b64(around), "mask_b64": b64(mask), "strength": 1.0, "seed": 3}
    heart = ask(service, "/inpaint", prompt="a red heart on a yellow background", **request)
    red, green, blue = np.asarray(heart, float)[104:152, 104:152].mean((0, 1))
    print(f"the middle of the heart: {red:.0f} {green:.0f} {blue:.0f}")
    assert red > max(green, blue) + 60
    things = ["penguin", "strawberry", "octopus", "car"]
    filled = [ask(service, "/inpaint", prompt=f"a {name} on a yellow background", **request) for name in things]
    named = [name for name, picture in zip(things, filled, strict=True) if shows(judge, picture, name)]
    print(f"{len(named)} of {len(things)} holes filled with what was named")
    assert len(named) >= len(things) - 1
