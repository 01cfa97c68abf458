"""Images have exactly the requested size."""

from io import BytesIO

import httpx
import pytest
import requests
from PIL import Image

from benchmarks.harness.server import Server
from benchmarks.harness.waiting import LIMIT


def test_the_documentations_curl_command_returns_1024x1024(service: Server) -> None:
    """The request that the documentation's curl command sends."""
    answer = httpx.post(
        f"{service.url}/generate",
        headers={"Content-Type": "application/json", "User-Agent": "curl/8.5.0", "Accept": "*/*"},
        content="""{
    "prompt": "a majestic dragon flying over a crystal lake at sunset",
    "width": 1024,
    "height": 1024,
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "seed": 42
  }""",
        timeout=LIMIT,
    )
    image = Image.open(BytesIO(answer.content))
    print(
        f"{answer.status_code} {answer.headers['content-type']} {image.size} in {answer.elapsed.total_seconds():.2f} s"
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert (image.format, image.size) == ("JPEG", (1024, 1024))


def test_the_documentations_python_client_returns_1920x1080(service: Server) -> None:
    def generate_image(prompt: str, **kwargs: object) -> Image.Image | None:
        """Generate image using your Chutes service."""
        url = f"{service.url}/generate"

        payload = {
            "prompt": prompt,
            **kwargs,
        }

        response = requests.post(url, json=payload, timeout=LIMIT)

        if response.status_code == 200:
            return Image.open(BytesIO(response.content))
        return None

    image = generate_image(
        "a cyberpunk cityscape with neon lights and flying cars",
        width=1920,
        height=1080,
        num_inference_steps=25,
        seed=123,
    )
    assert image is not None
    assert image.size == (1920, 1080)


@pytest.mark.parametrize(("width", "height"), [(128, 128), (129, 1001), (2048, 2048), (2047, 128)])
def test_every_size_is_exact(service: Server, width: int, height: int) -> None:
    answer = service.post("/generate", json={"prompt": "a", "width": width, "height": height, "num_inference_steps": 1})
    assert Image.open(BytesIO(answer.content)).size == (width, height)
