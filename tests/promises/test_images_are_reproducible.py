"""The same request and seed produce the same bytes, and `X-Seed` and the file contain the seed."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image

from benchmarks.harness.server import Server
from imagegen import image_file

REQUEST = {"prompt": "Käse 🧀 on a red table", "width": 256, "height": 192, "num_inference_steps": 2}


def test_an_image_has_the_same_bytes_alone_and_in_a_queue(service: Server) -> None:
    alone = service.post("/generate", json={**REQUEST, "seed": 7}).content
    with ThreadPoolExecutor(4) as pool:
        seeds = [1, 7, 2, 7]
        queued = pool.map(lambda seed: service.post("/generate", json={**REQUEST, "seed": seed}).content, seeds)
        assert [content == alone for content in queued] == [False, True, False, True]


def test_x_seed_reproduces_an_unseeded_image(service: Server) -> None:
    first = service.post("/generate", json=REQUEST)
    again = service.post("/generate", json={**REQUEST, "seed": int(first.headers["x-seed"])})
    assert again.content == first.content
    assert service.post("/generate", json=REQUEST).content != first.content


@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_the_metadata_in_the_file_reproduces_the_image(service: Server, file_format: str) -> None:
    """A request with the metadata of a file generates the same file; two values name what generated it."""
    first = service.post("/generate", json={**REQUEST, "format": file_format})
    metadata = image_file.read_metadata(first.content)
    del metadata["model"], metadata["software"]
    assert (metadata["prompt"], str(metadata["seed"])) == (REQUEST["prompt"], first.headers["x-seed"])
    assert service.post("/generate", json={**metadata, "format": file_format}).content == first.content


def test_pillow_reads_the_prompt_and_seed(service: Server) -> None:
    answer = service.post("/generate", json={**REQUEST, "format": "png"})
    with Image.open(BytesIO(answer.content)) as image:
        assert image.info["prompt"] == REQUEST["prompt"]
        assert image.info["seed"] == answer.headers["x-seed"]
