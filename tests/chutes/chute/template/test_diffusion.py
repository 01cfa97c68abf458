import io
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from chutes.chute import NodeSelector
from chutes.chute.template.diffusion import build_diffusion_chute
from chutes.exception import ChutesWarning
from imagegen import engine, models
from imagegen.errors import NotFinite, Unsupported
from imagegen.memory import GpuRequirements
from imagegen.picture import Picture
from imagegen.profile import FLUX_DEV
from imagegen.request import Request
from imagegen.settings import Settings

asked: list[Any] = []


class Model:
    def __init__(
        self, source: str, *, settings: Settings, requirements: GpuRequirements, progress: Callable[..., None]
    ) -> None:
        progress("reading", 1, 2)
        self.info = {"model": source, "origin": "hub"}
        self.profile, self.origin = FLUX_DEV, "hub"


class Engine:
    def __init__(self, model: Model, *, on_failure: Callable[[str], object], **settings: bool) -> None:
        self.running = False

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    async def warm_up(self) -> None:
        assert self.running

    async def generate(self, request: Request) -> Picture:
        if request.prompt == "impossible":
            raise Unsupported("this model cannot")
        if request.prompt == "overflow":
            raise NotFinite("NaN at 128x128")
        asked.append(request)
        metadata: dict[str, object] = {"seed": 7, "num_inference_steps": request.steps, "model": "sdxl"}
        return Picture(Image.new("RGB", request.size), metadata, request.size, "hub", "bf16")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., TestClient]) -> TestClient:
    monkeypatch.setattr(models, "load", Model)
    monkeypatch.setattr(engine, "Engine", Engine)
    pack = build_diffusion_chute("myuser", "sdxl", "org/sdxl", NodeSelector())
    client = serve(pack.chute)
    assert pack.chute.info == {"model": "org/sdxl", "origin": "hub"}
    return client


def test_it_generates_a_picture(client: TestClient) -> None:
    response = client.post("/generate", json={"prompt": "x", "width": 256, "num_inference_steps": 50})
    assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
    assert response.headers["x-seed"] == "7"
    assert Image.open(io.BytesIO(response.content)).size == (256, 1024)
    assert (asked[-1].steps, asked[-1].guidance, asked[-1].negative_prompt) == (50, 7.5, None)
    assert asked[-1].true_cfg_scale is None


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"prompt": "x", "width": 127},
        {"prompt": "x", "num_inference_steps": 51},
        {"prompt": ""},
        {"prompt": "x" * 5001},
        {"prompt": "nul\0"},
        {"prompt": "x", "negative_prompt": "x" * 5001},
    ],
)
def test_invalid_bodies_are_refused(client: TestClient, wrong: dict[str, Any]) -> None:
    assert client.post("/generate", json=wrong).status_code == 422


def test_a_prompt_may_have_several_lines(client: TestClient) -> None:
    client.post("/generate", json={"prompt": "a cat,\n\ta \U0001f408"}).raise_for_status()
    assert asked[-1].prompt == "a cat,\n\ta \U0001f408"


@pytest.mark.parametrize(
    ("prompt", "status", "answer"),
    [
        ("impossible", 501, {"detail": "this model cannot", "code": "unsupported"}),
        ("overflow", 500, {"detail": "NaN at 128x128", "code": "generation_failed"}),
    ],
)
def test_an_engine_error_keeps_its_status_and_code(
    client: TestClient, prompt: str, status: int, answer: dict[str, str]
) -> None:
    response = client.post("/generate", json={"prompt": prompt})
    assert (response.status_code, response.json()) == (status, answer)


def test_options_without_effect_are_warned_of() -> None:
    with pytest.warns(ChutesWarning, match="pipeline_args"):
        build_diffusion_chute("u", "n", "m", NodeSelector(), pipeline_args={"a": 1})
