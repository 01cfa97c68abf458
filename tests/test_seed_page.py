"""The code of upstream's documentation page runs end to end; only the GPU and the weights are fakes.

The tests add what the page leaves out: a few imports, and the settings at its comment `# ... configuration`.
"""

import base64
import io
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import requests
import torch
from fastapi import HTTPException
from fastapi.testclient import TestClient
from PIL import Image
from pydantic.warnings import PydanticDeprecatedSince20

from chutes.chute import Chute
from chutes.exception import ChutesWarning

PAGE = Path(__file__).with_name("seed_page.md").read_text()
BLOCKS = dict(re.findall(r"^```python (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))

FLUX = ["schema", "image", "chute", "startup", "generate", "batch", "img2img", "inpaint"]
SETTINGS = 'username="myuser", name="n", image="i",'


class Pipeline:
    """A fake pipeline that returns one colour, at the requested size or that of the input image."""

    calls: list[dict[str, Any]]
    memory: int = 2**22  # pixels

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> "Pipeline":
        pipeline = cls()
        pipeline.calls = []
        return pipeline

    def to(self, device: str) -> "Pipeline":
        assert device == "cuda"
        return self

    def enable_memory_efficient_attention(self) -> None: ...

    def __call__(self, prompt: str, **options: Any) -> SimpleNamespace:
        self.calls.append({"prompt": prompt, **options})
        image = options.get("image")
        size = image.size if image else (options["width"], options["height"])
        if size[0] * size[1] > self.memory:
            raise torch.cuda.OutOfMemoryError
        seed = options["generator"].initial_seed() if options.get("generator") else 0
        return SimpleNamespace(images=[Image.new("RGB", size, (seed % 256, 128, 0))])


@pytest.fixture(autouse=True)
def no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = ModuleType("diffusers")
    for name in ("FluxPipeline", "StableDiffusionXLPipeline", "StableDiffusionInpaintPipeline"):
        setattr(diffusers, name, Pipeline)
    monkeypatch.setitem(sys.modules, "diffusers", diffusers)
    for name in ("empty_cache", "init", "set_device"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    generator = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: generator())


@pytest.fixture
def page() -> Callable[..., dict[str, Any]]:
    """Return a function that runs blocks of the page in order and returns their names."""

    def run(*names: str, **given: Any) -> dict[str, Any]:
        module: dict[str, Any] = {"__name__": "my_image_gen", "torch": torch, **given}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PydanticDeprecatedSince20)  # max_items, as the page has it
            for name in names:
                source = re.sub(r"# \.\.\. .*", SETTINGS, BLOCKS[name])
                exec(compile(source, f"<{name}>", "exec"), module)
        return module

    return run


@pytest.fixture
def client() -> Iterator[Callable[[Chute], TestClient]]:
    with ExitStack() as stack:
        yield lambda chute: stack.enter_context(TestClient(chute))


def png(size: tuple[int, int]) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_the_page_is_complete() -> None:
    assert set(BLOCKS) == {*FLUX, "sdxl", "client", "hardware", "errors", "scaling"}


def test_generate(page: Any, client: Any) -> None:
    module = page(*FLUX)
    service = client(module["chute"])
    request = {
        "prompt": "a majestic dragon flying over a crystal lake at sunset",
        "width": 1024,
        "height": 1024,
        "num_inference_steps": 20,
        "guidance_scale": 7.5,
        "seed": 42,
    }
    response = service.post("/generate", json=request)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
    assert re.fullmatch(r'attachment; filename="[\w-]+\.jpg"', response.headers["content-disposition"])
    assert (opened(response.content).format, opened(response.content).size) == ("JPEG", (1024, 1024))
    (call,) = module["chute"].pipeline.calls
    assert (call["num_inference_steps"], call["max_sequence_length"]) == (20, 256)
    assert service.post("/generate", json={"prompt": "x"}).status_code == 200
    assert module["chute"].pipeline.calls[-1]["num_inference_steps"] == 10


@pytest.mark.parametrize("wrong", [{}, {"prompt": "x", "width": 127}, {"prompt": "x", "num_inference_steps": 31}])
def test_generate_checks_its_input(page: Any, client: Any, wrong: dict[str, Any]) -> None:
    response = client(page(*FLUX)["chute"]).post("/generate", json=wrong)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"][0] == "body"


def test_batch(page: Any, client: Any) -> None:
    service = client(page(*FLUX)["chute"])
    response = service.post("/batch", json={"prompts": ["a", "b"], "width": 512})
    assert [opened(base64.b64decode(b64)).size for b64 in response.json()] == [(512, 1024)] * 2
    assert service.post("/batch", json={"prompts": ["a"] * 5}).status_code == 422


def test_img2img_and_inpaint(page: Any, client: Any) -> None:
    module = page(*FLUX)
    service = client(module["chute"])
    image, mask = png((64, 48)), png((64, 48))
    response = service.post("/img2img", json={"prompt": "x", "image_b64": image})
    assert (response.headers["content-type"], opened(response.content).size) == ("image/jpeg", (64, 48))
    response = service.post("/inpaint", json={"prompt": "x", "image_b64": image, "mask_b64": mask, "strength": 0.5})
    assert (response.headers["content-type"], opened(response.content).format) == ("image/png", "PNG")
    assert module["chute"].inpaint_pipe.calls[0]["strength"] == 0.5


def test_sdxl(page: Any, client: Any) -> None:
    module = page("sdxl", BytesIO=io.BytesIO)
    assert module["chute"].concurrency == 2
    response = client(module["chute"]).post("/sdxl", json={"prompt": "x", "width": 512})
    assert opened(base64.b64decode(response.json()["image"])).size == (512, 1024)
    dockerfile = str(module["image"])
    assert 'RUN pip3 install "torch>=2.4.0" torchvision --index-url' in dockerfile
    assert '"diffusers>=0.29.0" "transformers>=4.44.0" "accelerate>=0.33.0"' in dockerfile
    assert dockerfile.endswith("WORKDIR /app")


def test_the_python_client(page: Any, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    service = client(page(*FLUX)["chute"])
    monkeypatch.setattr(requests, "post", lambda url, json: service.post("/" + url.rpartition("/")[2], json=json))
    monkeypatch.chdir(tmp_path)
    image = page("client")["image"]
    assert image.size == (1920, 1080)
    assert Image.open("generated.jpg").getpixel((0, 0)) == pytest.approx((123, 128, 0), abs=8)


def test_the_fallback_replaces_generate(page: Any, client: Any, caplog: pytest.LogCaptureFixture) -> None:
    given = {"logger": logging.getLogger("my_image_gen"), "HTTPException": HTTPException}
    with pytest.warns(ChutesWarning, match="generate_with_fallback"):
        module = page(*FLUX, "errors", **given)
    service = client(module["chute"])
    pipeline = module["chute"].pipeline
    pipeline.memory = 1024 * 1024
    assert service.post("/generate", json={"prompt": "x", "width": 2048}).status_code == 200
    assert [(call["width"], call["num_inference_steps"]) for call in pipeline.calls] == [(2048, 10), (1024, 5)]
    assert "reducing resolution" in caplog.text
    pipeline.calls = None
    response = service.post("/generate", json={"prompt": "x"})
    assert (response.status_code, response.json()) == (500, {"detail": "Generation failed"})


def test_scaling(page: Any) -> None:
    names = page("chute", "hardware", readme="", image="i")
    assert (names["node_selector"].gpu_count, names["chute"].concurrency) == (2, 4)
    chute = page("scaling", Chute=Chute)["chute"]
    assert (chute.concurrency, chute.max_replicas, chute.scale_up_threshold, chute.scale_down_delay) == (2, 5, 10, 300)


def test_ids_that_the_page_leads_to(page: Any) -> None:
    module = page("schema", "image", "chute")
    assert module["chute"].uid == "b0e4bd4d-8660-59be-b3e3-5c30f6fe1590"
    assert module["chute"].slug == "myuser-flux-1-dev-generator"
    assert module["image"].uid == "48b1f5d7-dea7-5146-83d7-5507812ce180"
    assert str(module["image"]) == "FROM parachutes/flux.1-dev:latest"
