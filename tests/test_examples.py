"""Each example loads by its path and does what its docstring says."""

import base64
import json
import sys
import time
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from benchmarks.harness.waiting import LIMIT
from chutes.loader import load_chute
from chutes.server import Settings, create_app

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: Any) -> Any:
    return load_chute(str(EXAMPLES / f"{name}.py"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_every_example_loads_and_has_an_openapi_document(path: Any) -> None:
    chute = load_chute(str(path))
    assert chute.openapi()["paths"] or chute.jobs


def test_hello() -> None:
    with TestClient(load("hello")) as client:
        assert client.post("/greet", json={"name": "you"}).json() == {"greeting": "Hello, you!", "greeted": 1}
        assert client.post("/greet", json={}).json() == {"greeting": "Hello, world!", "greeted": 2}


def test_streaming(bundled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEGEN_MODEL", str(bundled))
    with TestClient(load("streaming")) as client:
        answer = client.post("/draw", json={"prompt": "a cat", "num_inference_steps": 3, "seed": 5})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[:3] == [{"step": i, "of": 3} for i in (1, 2, 3)]
    assert lines[3]["seed"] == 5
    assert Image.open(BytesIO(base64.b64decode(lines[3]["image"]))).size == (1024, 1024)


def test_contact_sheet(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMAGEGEN_MODEL", str(tiny_model))
    app = create_app(load("contact_sheet"), Settings(keys_file=tmp_path / "keys.json"))

    def until(wanted: Any, ask: Any) -> Any:
        deadline = time.monotonic() + LIMIT
        while not wanted(answer := ask()):
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.02)
        return answer

    with TestClient(app) as client:
        until(lambda answer: answer.status_code == 200, lambda: client.get("/ready"))
        job = client.post("/jobs/contact_sheet", json={"prompt": "a cat", "size": 128}).json()
        where = f"/jobs/{job['id']}"
        done = until(lambda answer: answer.json()["status"] == "complete", lambda: client.get(where)).json()
        assert done["result"]["seeds"] == list(range(8))
        assert Image.open(BytesIO(client.get(f"{where}/files/sheet.png").content)).size == (512, 256)


class Pipeline:
    """The parts of a diffusers pipeline that the examples use."""

    calls: ClassVar[list[dict[str, object]]] = []

    def __init__(self, **components: Any) -> None:
        self.components = {}

    @classmethod
    def from_pretrained(cls, name: Any, **options: Any) -> Any:
        return cls()

    def to(self, device: Any) -> Any:
        return self

    def __call__(self, prompt: Any, **arguments: Any) -> Any:
        self.calls.append({"pipeline": type(self).__name__, "prompt": prompt, **arguments})
        size = (arguments.get("width", 64), arguments.get("height", 64))
        return SimpleNamespace(images=[Image.new("RGB", size, "red")])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fake torch and diffusers, as on a machine with a GPU and the weights."""
    torch, diffusers = ModuleType("torch"), ModuleType("diffusers")
    cuda = SimpleNamespace(empty_cache=lambda: None, init=lambda: None, set_device=lambda index: None)
    generator = SimpleNamespace(manual_seed=lambda seed: f"seed {seed}")
    torch.__dict__.update(
        cuda=cuda, bfloat16="bf16", float16="f16", inference_mode=nullcontext, Generator=lambda device: generator
    )
    for name in ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline", "StableDiffusionXLPipeline"):
        setattr(diffusers, name, type(name, (Pipeline,), {}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "diffusers", diffusers)
    monkeypatch.setattr(Pipeline, "calls", [])
    return Pipeline.calls


def test_my_image_gen(gpu: Any) -> None:
    buffer = BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    with TestClient(load("my_image_gen")) as client:
        picture = client.post("/generate", json={"prompt": "a cat", "width": 256, "height": 128, "seed": 3})
        batch = client.post("/batch", json={"prompts": ["a", "b"]})
        changed = client.post("/img2img", json={"prompt": "a dog", "image_b64": image})
        filled = client.post("/inpaint", json={"prompt": "a hat", "image_b64": image, "mask_b64": image})
        refused = client.post("/generate", json={"prompt": "a cat", "width": 127})
    assert (picture.headers["content-type"], changed.headers["content-type"]) == ("image/jpeg", "image/jpeg")
    assert Image.open(BytesIO(picture.content)).size == (256, 128)
    assert len(batch.json()) == 2
    assert filled.headers["content-type"] == "image/png"
    assert refused.status_code == 422
    assert [call["pipeline"] for call in gpu] == ["FluxPipeline"] * 3 + ["FluxImg2ImgPipeline", "FluxInpaintPipeline"]
    assert gpu[0]["generator"] == "seed 3"


def test_sdxl(gpu: Any) -> None:
    with TestClient(load("sdxl")) as client:
        answer = client.post("/sdxl", json={"prompt": "a cat", "width": 512})
    image = Image.open(BytesIO(base64.b64decode(answer.json()["image"])))
    assert (image.format, image.size) == ("PNG", (512, 1024))
