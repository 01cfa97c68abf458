"""A service with another model than FLUX.1-dev: its own defaults, bounds and tasks on the same routes."""

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.harness.server import IMAGE_MODULES, Server, serving
from imagegen.image_file import read_metadata
from tests.imagegen import families

ROOT = Path(__file__).parents[2]


def b64(width: int, height: int) -> str:
    buffer = BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a tiny FLUX.2-klein: 4 steps, no guidance, and up to four input images."""
    folder = families.find("FLUX.2-klein").write(tmp_path_factory.mktemp("models") / "klein")
    (folder / "imagegen.json").write_text('{"profile": {"size": [192, 128]}}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEGEN_MODEL", str(folder))
        served = tmp_path_factory.mktemp("service")
        with serving(served, "", ref=str(ROOT / "chutes_app.py"), imported=IMAGE_MODULES) as server:
            yield server


def test_a_bare_prompt_gets_the_models_values(klein: Server) -> None:
    response = klein.post("/generate", json={"prompt": "a cat"})
    assert (response.status_code, response.headers["x-steps"]) == (200, "4")
    assert Image.open(BytesIO(response.content)).size == (192, 128)
    assert "guidance_scale" not in read_metadata(response.content)
    profile = klein.get("/ready").json()["profile"]
    assert (profile["name"], profile["steps"], profile["guidance"]) == ("FLUX.2-klein", 4, None)


def test_the_openapi_document_shows_the_loaded_model(klein: Server) -> None:
    properties = klein.get("/openapi.json").json()["components"]["schemas"]["GenerationInput"]["properties"]
    steps = properties["num_inference_steps"]
    assert (steps["default"], steps["minimum"], steps["maximum"]) == (4, 1, 50)
    assert (properties["width"]["default"], properties["height"]["default"]) == (192, 128)
    assert not {"guidance_scale", "true_cfg_scale"} & set(properties)


@pytest.mark.parametrize(
    ("path", "fields", "wrong"),
    [
        ("/generate", {"num_inference_steps": 51}, "num_inference_steps"),
        ("/generate", {"guidance_scale": 4.0}, "guidance_scale"),
        ("/generate", {"true_cfg_scale": 4.0}, "true_cfg_scale"),
        ("/generate", {"negative_prompt": "blue"}, "negative_prompt"),
        ("/generate", {"scheduler": "ddim"}, "scheduler"),
        ("/generate", {"sampler_name": "Euler a"}, "sampler_name"),
        ("/img2img", {"strength": 0.5, "image_b64": b64(64, 64)}, "strength"),
        ("/img2img", {"images_b64": [b64(64, 64)] * 5}, "images_b64"),
    ],
)
def test_a_field_that_the_model_cannot_honour_is_named(
    klein: Server, path: str, fields: dict[str, Any], wrong: str
) -> None:
    response = klein.post(path, json={"prompt": "a cat", **fields})
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["detail"]] == [["body", wrong]]


def test_defaults_of_the_first_version_are_accepted(klein: Server) -> None:
    fields = {"prompt": "a cat", "guidance_scale": 7.5, "negative_prompt": "", "scheduler": ""}
    assert klein.post("/generate", json=fields).status_code == 200
    edit = {**fields, "strength": 0.75, "image_b64": b64(150, 130)}
    assert Image.open(BytesIO(klein.post("/img2img", json=edit).content)).size == (150, 130)


def test_several_images_are_combined_at_the_size_of_the_first(klein: Server) -> None:
    def edit(*images: str) -> bytes:
        response = klein.post("/img2img", json={"prompt": "a cat", "seed": 1, "images_b64": images, "format": "png"})
        assert response.status_code == 200
        assert Image.open(BytesIO(response.content)).size == (150, 130)
        return response.content

    first, second = b64(150, 130), b64(200, 128)
    assert edit(first) != edit(first, second)
    assert edit(first, second) == edit(first, second)


def test_two_ways_to_send_images_exclude_each_other(klein: Server) -> None:
    for images in ({}, {"image_b64": b64(64, 64), "images_b64": [b64(64, 64)]}):
        response = klein.post("/img2img", json={"prompt": "a cat", **images})
        assert response.status_code == 422
        assert "image_b64" in response.json()["detail"][0]["msg"]
