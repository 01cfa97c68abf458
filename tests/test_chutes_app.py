"""The image service with the bundled model: every route, its responses and its errors."""

import asyncio
import base64
import collections
import dataclasses
import json
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis import GenerationMode

from benchmarks.harness.waiting import wait_for
from chutes.chute._progress import Progress
from chutes.server import Settings, create_app
from imagegen import Engine, Request, image_file, load, memory
from imagegen.http import service


@pytest.fixture(scope="module")
def chute(bundled: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEGEN_MODEL", str(bundled))
        from chutes_app import chute

        yield chute


@pytest.fixture(scope="module")
def app(chute: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The chute in the runtime, as `chutes run` serves it."""
    return create_app(chute, Settings(keys_file=tmp_path_factory.mktemp("keys") / "keys.json"))


@pytest.fixture(scope="module")
def client(app: Any) -> Iterator[Any]:
    with TestClient(app) as client:
        wait_for(lambda: client.get("/ready").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def tiny_engine(tiny_model: Path) -> Iterator[Engine]:
    engine = Engine(load(str(tiny_model)))
    engine.start()
    yield engine
    engine.stop()


def b64(image: Image.Image, kind: str = "PNG") -> str:
    buffer = BytesIO()
    image.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def opened(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content))


PHOTO = Image.effect_noise((160, 120), 40).convert("RGB")
MASK = Image.new("L", (160, 120))
MASK.paste(255, (20, 20, 60, 60))
IMAGE_B64, MASK_B64 = b64(PHOTO), b64(MASK)
EDIT = {"prompt": "a cat", "image_b64": IMAGE_B64, "num_inference_steps": 4, "seed": 1}


def test_ready_reports_the_loaded_model(client: Any) -> None:
    ready = client.get("/ready").json()
    assert (ready["model"], ready["origin"], ready["native_size"]) == ("chutes-emoji-flux", "bundled", 256)
    assert (ready["precision"], ready["memory_plan"]) == ("fp32", "cpu")


def test_without_a_gpu_the_bundled_model_is_used_and_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The report is in `/ready`, in the log and in every response."""
    monkeypatch.delenv("IMAGEGEN_MODEL", raising=False)
    monkeypatch.setattr(memory, "gpus", list)
    node = SimpleNamespace(gpu_count=1, min_vram_gb_per_gpu=80)
    chute = SimpleNamespace(node_selector=node, progress=Progress(), fail=print, info={})
    stages = []
    update = chute.progress.update
    monkeypatch.setattr(chute.progress, "update", lambda *args, **unit: (stages.append(args[0]), update(*args, **unit)))
    asyncio.run(service.start_engine(chute))
    picture = asyncio.run(chute.engine.generate(Request("a cat", steps=1)))
    asyncio.run(service.stop_engine(chute))
    assert chute.info["origin"] == picture.origin == "bundled"
    assert "small bundled model" in caplog.text
    assert stages[0].startswith("importing")  # takes longest with a small model
    assert chute.progress.snapshot()["stage"] == stages[-1] == "generating a warm-up image"


def test_the_request_of_the_documentation(client: Any) -> None:
    """The body is the one that the documentation prints."""
    body = """{
    "prompt": "a majestic dragon flying over a crystal lake at sunset",
    "width": 1024,
    "height": 1024,
    "num_inference_steps": 20,
    "guidance_scale": 7.5,
    "seed": 42
  }"""
    answer = client.post("/generate", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.headers["content-disposition"].endswith('.jpg"')
    assert (answer.headers["x-seed"], answer.headers["x-steps"]) == ("42", "20")
    assert (answer.headers["x-model"], answer.headers["x-drawn-size"]) == ("chutes-emoji-flux", "256x256")
    assert (opened(answer.content).format, opened(answer.content).size) == ("JPEG", (1024, 1024))


def test_a_random_seed_is_reported_and_repeats_the_image(client: Any) -> None:
    request = {"prompt": "a cat", "num_inference_steps": 4}
    first = client.post("/generate", json=request)
    again = client.post("/generate", json={**request, "seed": int(first.headers["x-seed"])})
    assert first.content == again.content
    metadata = image_file.read_metadata(first.content)
    assert (metadata["prompt"], metadata["seed"]) == ("a cat", int(first.headers["x-seed"]))


@pytest.mark.parametrize("file_format", ["jpeg", "png", "webp"])
def test_formats(client: Any, file_format: str) -> None:
    answer = client.post("/generate", json={"prompt": "a cat", "num_inference_steps": 1, "format": file_format})
    assert answer.headers["content-type"] == f"image/{file_format}"
    assert opened(answer.content).format == file_format.upper()
    ending = "jpg" if file_format == "jpeg" else file_format
    assert answer.headers["content-disposition"].endswith(f'.{ending}"')


def test_batch(client: Any) -> None:
    request = {"prompts": ["a cat", "an apple"], "width": 512, "height": 640, "seed": 7, "num_inference_steps": 10}
    answer = client.post("/batch", json=request)
    assert (answer.status_code, answer.headers["x-seed"]) == (200, "7,8")
    files = [base64.b64decode(each) for each in answer.json()]
    assert [(opened(file).format, opened(file).size) for file in files] == [("JPEG", (512, 640))] * 2
    alone = {"prompt": "an apple", "width": 512, "height": 640, "seed": 8, "num_inference_steps": 10}
    picture = client.post("/generate", json={**alone, "format": "png"}).content
    in_batch = client.post("/batch", json={**request, "format": "png"}).json()[1]
    assert opened(base64.b64decode(in_batch)).tobytes() == opened(picture).tobytes()


def test_img2img(client: Any) -> None:
    answer = client.post("/img2img", json=EDIT)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert opened(answer.content).size == PHOTO.size


def test_inpaint(client: Any) -> None:
    answer = client.post("/inpaint", json={**EDIT, "mask_b64": MASK_B64})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    result = opened(answer.content).convert("RGB")
    black = Image.new("RGB", PHOTO.size)
    keep = MASK.point(lambda value: 255 - value)
    assert Image.composite(result, black, keep).tobytes() == Image.composite(PHOTO, black, keep).tobytes()


def bomb() -> str:
    """Return a PNG of 60 KB that claims to be 100 gigabytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000))
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()


BAD = [
    ("/generate", {}, "prompt"),
    ("/generate", {"prompt": ""}, "prompt"),
    ("/generate", {"prompt": "   "}, "prompt"),
    ("/generate", {"prompt": "a" * 100_000}, "prompt"),
    ("/generate", {"prompt": "a\0b"}, "prompt"),
    ("/generate", {"prompt": 5}, "prompt"),
    ("/generate", {"prompt": None}, "prompt"),
    ("/generate", {"prompt": "a", "width": 127}, "width"),
    ("/generate", {"prompt": "a", "width": 2049}, "width"),
    ("/generate", {"prompt": "a", "height": -1}, "height"),
    ("/generate", {"prompt": "a", "height": "tall"}, "height"),
    ("/generate", {"prompt": "a", "num_inference_steps": 31}, "num_inference_steps"),
    ("/generate", {"prompt": "a", "guidance_scale": 10**400}, "guidance_scale"),
    ("/generate", {"prompt": "a", "guidance_scale": 0.5}, "guidance_scale"),
    ("/generate", {"prompt": "a", "seed": 2**32}, "seed"),
    ("/generate", {"prompt": "a", "seed": -1}, "seed"),
    ("/generate", {"prompt": "a", "format": "gif"}, "format"),
    ("/batch", {"prompts": ["a"] * 5}, "prompts"),
    ("/batch", {"prompts": []}, "prompts"),
    ("/batch", {"prompts": ["a", ""]}, "prompts"),
    ("/batch", {"prompts": ["a"], "width": 128}, "width"),
    ("/img2img", {**EDIT, "image_b64": "not base64!"}, "image_b64"),
    ("/img2img", {**EDIT, "image_b64": base64.b64encode(b"a text file").decode()}, "image_b64"),
    ("/img2img", {**EDIT, "image_b64": base64.b64encode(b"<svg xmlns='x'/>").decode()}, "image_b64"),
    ("/img2img", {**EDIT, "image_b64": IMAGE_B64[: len(IMAGE_B64) // 2 // 4 * 4]}, "image_b64"),
    ("/img2img", {**EDIT, "image_b64": ""}, "image_b64"),
    ("/img2img", {**EDIT, "image_b64": b64(Image.new("1", (6000, 4300)))}, "image_b64"),
    ("/img2img", {**EDIT, "image_b64": bomb()}, "image_b64"),
    ("/img2img", {**EDIT, "strength": 0}, "strength"),
    ("/inpaint", EDIT, "mask_b64"),
    ("/inpaint", {**EDIT, "mask_b64": "%"}, "mask_b64"),
    ("/inpaint", {**EDIT, "mask_b64": bomb()}, "mask_b64"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"), BAD, ids=[f"{i}-{path[1:]}-{field}" for i, (path, _, field) in enumerate(BAD)]
)
def test_bad_input_names_its_field(client: Any, path: Any, body: Any, field: Any) -> None:
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code in {413, 422}
    assert any(field in each["loc"] for each in answer.json()["detail"])
    for leak in ("Traceback", ".py", "/work", "site-packages"):
        assert leak not in answer.text
    assert len(answer.text) < 5000


@pytest.mark.parametrize(
    "body", ["", "{", "[]", '"text"', "null", '{"prompt": "a", "guidance_scale": NaN}', '{"prompt": "\\ud800"}', "\xff"]
)
def test_bodies_that_are_not_requests(client: Any, body: str) -> None:
    answer = client.post("/generate", content=body.encode("latin-1"), headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert "detail" in answer.json()


def test_unknown_routes_and_wrong_verbs(client: Any) -> None:
    assert client.post("/no-such-route").status_code == 404
    assert client.get("/generate").status_code == 405
    assert client.post("/generate", json={"prompt": "still working", "num_inference_steps": 1}).status_code == 200


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("path", ["/generate", "/batch", "/img2img", "/inpaint"])
def test_no_request_generated_from_the_openapi_document_is_a_server_error(
    client: Any, chute: Any, tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch, path: str, mode: Any
) -> None:
    """Schemathesis generates valid requests and slightly invalid ones. A tiny model draws them."""
    monkeypatch.setattr(chute, "engine", tiny_engine)
    document = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    seen = collections.Counter()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=document[path]["POST"].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        request = case.as_transport_kwargs(base_url="http://testserver")
        request.pop("cookies", None)
        if isinstance(request.get("data"), bytes):
            request["content"] = request.pop("data")
        answer = client.request(**request)
        seen[answer.status_code] += 1
        assert answer.status_code < 500, answer.text

    ask()
    print(f"{path}, {mode.value} requests: {dict(seen)}")


def test_a_fallback_of_any_image_in_a_batch_is_marked(client: Any, chute: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generated = [asyncio.run(chute.engine.generate(Request(prompt, steps=1))) for prompt in ("a cat", "an owl")]
    fallback = dataclasses.replace(generated[1], fallback="out-of-memory", generated_size=(128, 128))
    pictures = iter([generated[0], fallback])

    async def generate(request: Any) -> Any:
        return next(pictures)

    monkeypatch.setattr(chute.engine, "generate", generate)
    headers = client.post("/batch", json={"prompts": ["a cat", "an owl"], "num_inference_steps": 10}).headers
    assert (headers["x-fallback"], headers["x-drawn-size"]) == ("out-of-memory", "128x128")
    assert headers["x-seed"] == f"{generated[0].seed},{generated[1].seed}"


def test_a_large_photo_is_scaled_and_the_header_accept_decides_the_format(client: Any) -> None:
    photo = b64(Image.effect_noise((403, 302), 40).resize((4030, 3020)), "JPEG")
    answer = client.post("/img2img", json={**EDIT, "image_b64": photo, "width": 256}, headers={"Accept": "image/webp"})
    assert (answer.status_code, answer.headers["x-resized-from"]) == (200, "4030x3020")
    assert (opened(answer.content).format, opened(answer.content).size) == ("WEBP", (256, 192))
    assert client.post("/img2img", json={**EDIT, "format": "JPG"}).headers["content-type"] == "image/jpeg"
    assert "x-resized-from" not in client.post("/img2img", json=EDIT).headers
