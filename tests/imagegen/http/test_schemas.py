"""The fields, defaults and bounds of upstream's documentation, refused values, and the engine's requests."""

import asyncio
import base64
import time
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel, ValidationError

from imagegen.defaults import apply_defaults
from imagegen.errors import InputError
from imagegen.http.schemas import (
    BatchGenerationInput,
    GenerationInput,
    Img2ImgInput,
    InpaintInput,
    MinifiedGenerationInput,
    document_profile,
)
from imagegen.profile import FLUX_DEV, Bounds, Profile
from imagegen.request import Request

PIXEL = base64.b64encode(b"any").decode()
MODELS: list[tuple[type[BaseModel], dict[str, object]]] = [
    (GenerationInput, {"prompt": "a cat"}),
    (BatchGenerationInput, {"prompts": ["a cat"]}),
    (Img2ImgInput, {"prompt": "a cat", "image_b64": PIXEL}),
    (InpaintInput, {"prompt": "a cat", "image_b64": PIXEL, "mask_b64": PIXEL}),
]


def refused(model: Any, **fields: Any) -> Any:
    """Return the names of the fields in the validation errors."""
    with pytest.raises(ValidationError) as error:
        model(**fields)
    return {str(each["loc"][0]) for each in error.value.errors()}


def out_of_bounds(model: Any, profile: Profile, **fields: Any) -> str | None:
    """Return the name of the field that the schema or the profile rejects."""
    try:
        body = model(**fields)
        profile.check(body.route, body.model_dump())
    except ValidationError as error:
        return str(error.errors()[0]["loc"][0])
    except InputError as error:
        return error.field
    return None


def test_defaults_are_those_of_the_documentation() -> None:
    request = GenerationInput(prompt="a cat").to_request(FLUX_DEV)
    completed = apply_defaults(request, FLUX_DEV, {"guidance_scale"})
    assert (completed.size, completed.steps, completed.guidance) == ((1024, 1024), 10, 7.5)
    batch = BatchGenerationInput(prompts=["a cat"]).to_requests(FLUX_DEV)[0]
    completed = apply_defaults(batch, FLUX_DEV, {"guidance_scale"})
    assert (completed.size, completed.steps, completed.guidance) == ((1024, 1024), 20, 7.5)
    assert MinifiedGenerationInput().prompt == "a beautiful mountain landscape"
    images = {"prompt": "a cat", "image_b64": b64(PHOTO)}
    for body in (Img2ImgInput(**images), InpaintInput(**images, mask_b64=b64(PHOTO))):
        completed = apply_defaults(body.to_request(FLUX_DEV), FLUX_DEV, {"guidance_scale", "strength"})
        assert (completed.strength, completed.guidance, completed.steps) == (0.75, 7.5, 28)
    assert (GenerationInput(prompt="a cat").format, InpaintInput(**MODELS[3][1]).format) == ("jpeg", "png")


@pytest.mark.parametrize(
    ("model", "field", "low", "high"),
    [
        (GenerationInput, "width", 128, 2048),
        (GenerationInput, "height", 128, 2048),
        (GenerationInput, "num_inference_steps", 1, 30),
        (GenerationInput, "guidance_scale", 1.0, 20.0),
        (GenerationInput, "true_cfg_scale", 1.0, 20.0),
        (GenerationInput, "seed", 0, 2**32 - 1),
        (BatchGenerationInput, "width", 512, 2048),
        (BatchGenerationInput, "height", 512, 2048),
        (BatchGenerationInput, "num_inference_steps", 10, 50),
        (Img2ImgInput, "num_inference_steps", 1, 50),
        (Img2ImgInput, "strength", 0.1, 1.0),
        (Img2ImgInput, "guidance_scale", 1.0, 20.0),
        (InpaintInput, "num_inference_steps", 1, 50),
        (InpaintInput, "strength", 0.1, 1.0),
    ],
)
def test_bounds_are_those_of_the_documentation(model: Any, field: str, low: float, high: float) -> None:
    needed = dict(MODELS)[model]
    for value in (low, high):
        assert out_of_bounds(model, FLUX_DEV, **needed, **{field: value}) is None
    step = 1 if isinstance(low, int) else 0.01
    for value in (low - step, high + step, -1, float("nan"), float("inf"), 1e300, 10**40, "wide"):
        assert out_of_bounds(model, FLUX_DEV, **needed, **{field: value}) == field


@pytest.mark.parametrize(("model", "fields"), MODELS)
def test_an_unknown_field_is_an_error_that_suggests_the_nearest(model: Any, fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as error:
        model(**fields, guidance_scal=3, cfg_scale=7, seed="x", zzz=1)
    messages = {each["loc"]: (each["type"], each["msg"]) for each in error.value.errors()}
    assert messages.pop(("seed",))[0] == "int_parsing"
    assert messages.pop(("zzz",)) == ("extra_forbidden", "Unknown field. Leave it out.")
    assert messages.pop(("guidance_scal",)) == ("extra_forbidden", "Unknown field. Did you mean guidance_scale?")
    assert messages == {("cfg_scale",): ("extra_forbidden", "Unknown field. Did you mean true_cfg_scale?")}


def test_one_image_or_several() -> None:
    for images, given in (({}, "neither"), ({"image_b64": PIXEL, "images_b64": [PIXEL]}, "both")):
        with pytest.raises(ValidationError, match=f"either image_b64 or images_b64; got {given}"):
            Img2ImgInput(prompt="a cat", **images)
    assert refused(Img2ImgInput, prompt="a", images_b64=[PIXEL] * 5) == {"images_b64"}
    assert refused(Img2ImgInput, prompt="a", images_b64=[]) == {"images_b64"}
    body = Img2ImgInput(prompt="a", images_b64=[b64(PHOTO), b64(PHOTO.convert("L"))])
    request = body.to_request(replace(FLUX_DEV, max_images=2))
    assert request.image == PHOTO
    assert [each.mode for each in request.references] == ["RGB"]
    with pytest.raises(InputError, match="images_b64 has 2 images; this model takes at most 1\\. Leave some out"):
        body.to_request(FLUX_DEV)


def test_json_schemas_show_the_documented_model() -> None:
    def numbers(model: Any) -> dict[str, tuple[Any, ...]]:
        properties = model.model_json_schema()["properties"].items()
        keys = "type", "minimum", "maximum", "default"
        return {name: tuple(each.get(key) for key in keys) for name, each in properties if "minimum" in each}

    assert numbers(GenerationInput) == {
        "true_cfg_scale": ("number", 1.0, 20.0, None),
        "num_inference_steps": ("integer", 1, 30, 10),
        "guidance_scale": ("number", 1.0, 20.0, 7.5),
        "height": ("integer", 128, 2048, 1024),
        "width": ("integer", 128, 2048, 1024),
    }
    assert numbers(BatchGenerationInput)["num_inference_steps"] == ("integer", 10, 50, 20)
    turbo = replace(FLUX_DEV, steps=Bounds(4, 1, 8), route_steps={}, guidance=None, true_cfg=None, size=(768, 512))
    document_profile(turbo)
    try:
        assert numbers(GenerationInput) == {
            "num_inference_steps": ("integer", 1, 8, 4),
            "height": ("integer", 128, 2048, 512),
            "width": ("integer", 128, 2048, 768),
        }
        assert numbers(Img2ImgInput) == {
            "num_inference_steps": ("integer", 1, 8, 4),
            "strength": ("number", 0.1, 1.0, 0.75),
        }
    finally:
        document_profile(FLUX_DEV)


@pytest.mark.parametrize("prompt", ["", "  \n", "a" * 5001, "a" * 100_000, "nul\0", "bell\a", None, 7, ["a"], "\ud800"])
def test_prompts_that_are_refused(prompt: Any) -> None:
    for model, fields in MODELS:
        field = "prompts" if "prompts" in fields else "prompt"
        assert refused(model, **{**fields, field: [prompt] if field == "prompts" else prompt}) == {field}


def test_an_empty_prompt_has_a_clear_message() -> None:
    with pytest.raises(ValidationError, match="String should have at least 1 character"):
        GenerationInput(prompt="")
    bounds = GenerationInput.model_json_schema()["properties"]["prompt"]
    assert (bounds["minLength"], bounds["maxLength"]) == (1, 5000)


@pytest.mark.parametrize("prompt", ["a", "a" * 5000, "two\nlines\tand tab\r\n", "猫 🐈", "{curly} %s \\"])
def test_prompts_that_are_accepted(prompt: str) -> None:
    assert GenerationInput(prompt=prompt).prompt == prompt


@pytest.mark.parametrize("prompts", [[], ["a"] * 5, "a cat", None])
def test_one_to_four_prompts_in_a_batch(prompts: Any) -> None:
    assert refused(BatchGenerationInput, prompts=prompts) == {"prompts"}
    assert len(BatchGenerationInput(prompts=["a"] * 4).prompts) == 4


def test_missing_fields_are_named() -> None:
    assert refused(GenerationInput) == {"prompt"}
    assert refused(InpaintInput) == {"prompt", "image_b64", "mask_b64"}
    assert refused(Img2ImgInput, prompt="a", image_b64="") == {"image_b64"}


def test_formats() -> None:
    assert refused(GenerationInput, prompt="a", format="gif") == {"format"}
    for file_format in ("jpeg", "png", "webp"):
        assert GenerationInput(prompt="a", format=file_format).format == file_format


def test_a_format_has_any_case_and_its_short_name() -> None:
    assert [GenerationInput(prompt="a", format=name).format for name in ("JPG", "jpg", "PNG", "Webp")] == [
        "jpeg",
        "jpeg",
        "png",
        "webp",
    ]


def test_the_body_has_precedence_over_the_header_accept() -> None:
    assert GenerationInput(prompt="a").file_format("image/webp") == "webp"
    assert GenerationInput(prompt="a").file_format("*/*") == "jpeg"
    assert GenerationInput(prompt="a", format="jpeg").file_format("image/webp") == "jpeg"
    assert InpaintInput(**dict(MODELS)[InpaintInput]).file_format("text/html") == "png"


def test_line_breaks_of_word_processors_become_spaces() -> None:
    assert GenerationInput(prompt="a\vcat\fin\x85rain").prompt == "a cat in rain"
    assert GenerationInput(prompt="a", negative_prompt="b\vc").negative_prompt == "b c"
    assert refused(GenerationInput, prompt="\v\f") == {"prompt"}


def test_a_negative_prompt_may_be_empty() -> None:
    assert GenerationInput(prompt="a", negative_prompt="").negative_prompt == ""
    assert refused(GenerationInput, prompt="a", negative_prompt="\0") == {"negative_prompt"}


def b64(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


PHOTO = Image.effect_noise((200, 150), 40).convert("RGB")
COMMON = {"negative_prompt": "blue", "true_cfg_scale": 3.0, "guidance_scale": 5.0, "num_inference_steps": 12, "seed": 7}
ENGINES = {"negative_prompt": "blue", "true_cfg_scale": 3.0, "guidance": 5.0, "steps": 12, "seed": 7}


def test_a_body_becomes_a_request() -> None:
    body = GenerationInput(prompt="a cat", width=640, height=448, format="png", **COMMON)
    assert body.to_request(FLUX_DEV) == Request("a cat", width=640, height=448, **ENGINES)


def test_a_batch_becomes_a_request_for_each_prompt() -> None:
    body = BatchGenerationInput(prompts=["a cat", "an owl"], width=640, height=512, **{**COMMON, "seed": 2**32 - 1})
    first, second = body.to_requests(FLUX_DEV)
    assert first == Request("a cat", width=640, height=512, **{**ENGINES, "seed": 2**32 - 1})
    assert second == Request("an owl", width=640, height=512, **{**ENGINES, "seed": 0})
    seeds = [request.seed for request in BatchGenerationInput(prompts=["a", "b"]).to_requests(FLUX_DEV)]
    assert seeds[1] == (seeds[0] + 1) % 2**32


def test_images_are_decoded_into_the_request() -> None:
    body = Img2ImgInput(prompt="a cat", image_b64=b64(PHOTO), width=400, strength=0.5, **COMMON)
    assert body.to_request(FLUX_DEV) == Request("a cat", image=PHOTO, width=400, strength=0.5, **ENGINES)
    mask = PHOTO.convert("L")
    edit = InpaintInput(prompt="a cat", image_b64=b64(PHOTO), mask_b64=b64(mask), **COMMON)
    assert edit.to_request(FLUX_DEV) == Request("a cat", image=PHOTO, mask=mask, **ENGINES)


@pytest.mark.parametrize("field", ["image_b64", "mask_b64"])
def test_an_image_that_cannot_be_decoded_is_named(field: str) -> None:
    images = {"image_b64": b64(PHOTO), "mask_b64": b64(PHOTO), field: "%"}
    with pytest.raises(InputError, match=f"^{field} is not valid base64") as error:
        InpaintInput(prompt="a cat", **images).to_request(FLUX_DEV)
    assert error.value.field == field


def test_a_mask_of_another_size_is_resized(engine: Any) -> None:
    mask = Image.new("L", (20, 15))
    mask.paste(255, (0, 0, 10, 15))
    body = InpaintInput(prompt="a cat", image_b64=b64(PHOTO), mask_b64=b64(mask), seed=1)
    after = np.asarray(asyncio.run(engine.generate(body.to_request(FLUX_DEV))).image)
    assert (after[:, 110:] == np.asarray(PHOTO)[:, 110:]).all()
    assert (after[:, :90] != np.asarray(PHOTO)[:, :90]).any(-1).mean() > 0.9


def test_an_image_of_a_batch_is_that_of_its_prompt_and_seed_alone(engine: Any) -> None:
    batch = BatchGenerationInput(prompts=["a cat", "a red apple"], seed=0, num_inference_steps=10)
    pictures = [asyncio.run(engine.generate(request)) for request in batch.to_requests(FLUX_DEV)]
    alone = asyncio.run(engine.generate(Request("a red apple", steps=10, seed=1)))
    assert [picture.seed for picture in pictures] == [0, 1]
    assert pictures[1].encode() == alone.encode()


@pytest.mark.parametrize("names", [[f"seed{i}" for i in range(60_000)], ["guidance_scale" * 60_000]])
def test_many_or_long_unknown_fields_take_little_time(names: list[str]) -> None:
    began = time.process_time()
    with pytest.raises(ValidationError) as error:
        GenerationInput.model_validate({"prompt": "a", **dict.fromkeys(names, 1)})
    assert time.process_time() - began < 5
    assert 0 < error.value.error_count() <= 100
