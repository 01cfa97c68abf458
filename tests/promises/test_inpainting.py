"""Inpainting keeps every pixel under black and repaints white, and `strength` controls img2img."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from benchmarks.harness.server import Server

rng = np.random.default_rng(0)
PHOTO = Image.fromarray(rng.integers(0, 256, (301, 403, 3), np.uint8))  # a multiple of nothing


def b64(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_black_pixels_are_kept_and_white_pixels_repainted(service: Server) -> None:
    mask = np.zeros((301, 403), np.uint8)
    mask[100:200, 120:300] = 255
    request = {"prompt": "a cat", "image_b64": b64(PHOTO), "mask_b64": b64(Image.fromarray(mask))}
    answer = service.post("/inpaint", json={**request, "num_inference_steps": 4})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    result = np.asarray(Image.open(BytesIO(answer.content)).convert("RGB"))
    changed = (result != np.asarray(PHOTO)).any(-1)
    kept, painted = changed[mask == 0], changed[mask == 255]
    print(f"{kept.sum()} of {kept.size} pixels under black changed, {painted.mean():.1%} of those under white")
    assert not kept.any()
    assert painted.mean() > 0.95


def test_a_higher_strength_changes_more_of_the_image(service: Server) -> None:
    smooth = PHOTO.resize((9, 7)).resize((256, 192))

    def draw(strength: float, seed: int) -> np.ndarray:
        request = {"prompt": "a cat", "image_b64": b64(smooth), "strength": strength, "seed": seed}
        answer = service.post("/img2img", json={**request, "num_inference_steps": 10})
        return np.asarray(Image.open(BytesIO(answer.content)), float)

    spreads = [float(np.abs(draw(strength, 1) - draw(strength, 2)).mean()) for strength in (0.1, 0.4, 1.0)]
    print("difference between two seeds at strength 0.1, 0.4, 1.0: " + ", ".join(f"{each:.1f}" for each in spreads))
    assert spreads[0] < 0.75 * spreads[2]
    assert spreads[0] < spreads[1] < spreads[2] + 1
