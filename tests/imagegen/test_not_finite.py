"""NaN and infinite values give an error and a log line, never a black or white image."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from prometheus_client import REGISTRY

from imagegen import models
from imagegen.engine import Engine
from imagegen.errors import LoadError, NotFinite
from imagegen.http.responses import error_response
from imagegen.request import Request
from imagegen.settings import Settings
from tests.imagegen import tiny
from tests.imagegen.test_sampling import img2img, inpaint

Start = Callable[[Path], Engine]

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def start() -> Iterator[Start]:
    """Start an engine with a model of its own, whose weights the test may damage."""
    engines = []

    def start(folder: Path) -> Engine:
        engine = Engine(models.load(str(folder), settings=Settings()))
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.stop()


def damage(engine: Engine, weight: str, value: float) -> None:
    """Set one value of a weight, named by its component and its parameter."""
    component, _, parameter = weight.partition(".")
    with torch.no_grad():
        getattr(engine.model.pipeline, component).get_parameter(parameter).view(-1)[0] = value


def text(prompt: str = "a cat", seed: int = 7) -> Request:
    return Request(prompt, width=128, height=128, steps=2, seed=seed)


def generate(engine: Engine, task: str) -> object:
    if task == "text2image":
        return asyncio.run(engine.generate(text()))
    if task == "img2img":
        return asyncio.run(engine.generate(img2img()))
    mask = Image.new("L", (200, 150))
    mask.paste(255, (10, 10, 50, 45))
    return asyncio.run(engine.generate(inpaint(mask)))


def reported(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("task", ["text2image", "img2img", "inpaint"])
@pytest.mark.parametrize(
    ("weight", "value"),
    [
        ("transformer.proj_out.weight", NAN),
        ("transformer.x_embedder.bias", INF),
        ("text_encoder_2.encoder.final_layer_norm.weight", NAN),
        ("vae.decoder.conv_in.bias", NAN),
        ("vae.decoder.conv_out.bias", INF),  # white when clamped
        ("vae.decoder.conv_out.bias", -INF),
    ],
)
def test_damaged_weights_give_an_error(
    start: Start, tiny_model: Path, caplog: pytest.LogCaptureFixture, task: str, weight: str, value: Any
) -> None:
    engine = start(tiny_model)
    damage(engine, weight, value)
    before = REGISTRY.get_sample_value("imagegen_errors_total") or 0
    with pytest.raises(NotFinite, match="NaN or infinite values at 128x") as error:
        generate(engine, task)
    assert error_response(error.value).status_code == 500
    assert REGISTRY.get_sample_value("imagegen_errors_total") == before + 1
    (line,) = reported(caplog)
    assert "tiny-random in fp32" in line
    assert task in line
    assert engine.failure is None


def test_an_overflow_for_one_prompt_fails_only_that_request(
    start: Start, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start(tiny_model)
    clip = engine.model.pipeline.text_encoder
    with torch.no_grad():
        clip.get_input_embeddings().weight[engine.model.pipeline.tokenizer.convert_tokens_to_ids("dragon")] = 3e38
    before = asyncio.run(engine.generate(text())).encode()
    for _ in range(3):
        with pytest.raises(NotFinite):
            asyncio.run(engine.generate(text("a red dragon")))
    assert len(reported(caplog)) == 3
    assert "seed 7" in reported(caplog)[0]
    assert asyncio.run(engine.generate(text())).encode() == before


def test_the_retry_after_out_of_memory_is_checked_too(
    start: Start, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start(tiny_model)
    transformer = engine.model.pipeline.transformer
    forward, calls = transformer.forward, []

    def failing_once(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*args, **options)

    monkeypatch.setattr(transformer, "forward", failing_once)
    damage(engine, "transformer.proj_out.bias", INF)
    with pytest.raises(NotFinite, match="at 64x64 with 1 steps"):
        asyncio.run(engine.generate(text()))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torch 2, numpy 2, diffusers
def test_another_architecture_is_checked_too(start: Start, tmp_path: Path) -> None:
    engine = start(tiny.write_sdxl(tmp_path))
    generate(engine, "text2image")
    damage(engine, "vae.decoder.conv_out.bias", INF)
    for task in ("text2image", "img2img", "inpaint"):
        with pytest.raises(NotFinite):
            generate(engine, task)


def test_the_warm_up_refuses_damaged_weights(start: Start, tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = start(tiny_model)
    asyncio.run(engine.warm_up())
    damage(engine, "transformer.proj_out.weight", NAN)
    with pytest.raises(LoadError, match=r"^tiny-random cannot be used in fp32: The model produced NaN .* Check its"):
        asyncio.run(engine.warm_up())
    assert not reported(caplog)  # the caller reports it in one line


def test_the_warm_up_reports_why_it_failed(start: Start, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start(tiny_model)

    def failing(*args: object, **options: object) -> object:
        raise ValueError("shapes differ")

    monkeypatch.setattr(engine.model.pipeline.transformer, "forward", failing)
    with pytest.raises(
        LoadError, match=r"^tiny-random cannot generate its warm-up image: ValueError: shapes differ\.$"
    ):
        asyncio.run(engine.warm_up())
