"""Where a model's values come from: its pipeline, the table of known models, and imagegen.json."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from imagegen import models
from imagegen.defaults import apply_defaults
from imagegen.errors import InputError, LoadError
from imagegen.profile import FLUX_DEV, Bounds, Profile, Route, Sizes
from imagegen.request import Request
from imagegen.settings import Settings
from tests.imagegen import tiny


def load(folder: Path, description: dict[str, object], **settings: Any) -> Profile:
    (folder / "imagegen.json").write_text(json.dumps(description))
    return models.load(str(folder), settings=Settings(**settings)).profile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_sdxl(tmp_path_factory.mktemp("models") / "sdxl")


def test_the_name_identifies_a_distilled_version(folder: Path) -> None:
    plain, turbo = load(folder, {"name": "my-sdxl"}), load(folder, {"name": "My-SDXL-Turbo"})
    assert (plain.name, plain.steps.default, plain.guidance) == ("SDXL", 30, Bounds(5.0, 0, 20))
    assert (turbo.name, turbo.steps.default, turbo.guidance) == ("SDXL-Turbo", 4, Bounds(0, 0, 20))
    assert plain.size == (128, 128)  # from the configuration


def test_a_file_beside_the_model_overrides_every_field(folder: Path) -> None:
    values = {
        "steps": 8,
        "guidance": [3.5, 1, 30],
        "size": [640, 512],
        "strength": 0.4,
        "tokens": 16,
        "max_images": 2,
        "sizes": {"multiple": 32, "min_area": 4096},
        "blank_negative": "ugly",
    }
    profile = load(folder, {"profile": values})
    assert (profile.steps, profile.guidance) == (Bounds(8, 1, 100), Bounds(3.5, 1, 30))
    assert (profile.size, profile.strength) == ((640, 512), Bounds(0.4, 0.1, 1))
    assert (profile.tokens, profile.max_images, profile.blank_negative) == (16, 2, "ugly")
    assert profile.sizes == Sizes(32, min_area=4096, max_area=24576)  # the last one is the model's own
    assert load(folder, {"profile": {"steps": 150}}).steps == Bounds(150, 1, 150)
    assert load(folder, {"native_size": 256, "profile": {"sizes": {"multiple": 8}}}).sizes.longest_side == 256


def test_the_files_steps_apply_to_all_routes(tmp_path: Path) -> None:
    """Also for a version of FLUX.1-dev, whose steps differ between routes in the table."""
    folder = tiny.write(tmp_path / "flux")
    assert load(folder, {}).steps_on("generate") == Bounds(10, 1, 30)
    turbo = load(folder, {"profile": {"steps": 8}})
    assert [turbo.steps_on(route).default for route in get_args(Route)] == [8] * 4
    assert load(folder, {"profile": {"route_steps": {"batch": [9, 1, 50]}}}).steps_on("batch").default == 9


@pytest.mark.parametrize(
    "description", [{"native_size": "256"}, {"native_size": 5}, {"profile": [1]}, {"profile": "x"}]
)
def test_an_unusable_description_is_an_error(folder: Path, description: dict[str, object]) -> None:
    with pytest.raises(LoadError, match=rf"^imagegen\.json: {next(iter(description))} must be "):
        load(folder, description)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stesp": 8}, "imagegen.json: profile has no field 'stesp'. Its fields are: name, steps, "),
        ({"steps": "many"}, "imagegen.json: profile.steps"),
        ({"guidance": [1, 2]}, "imagegen.json: profile.guidance"),
        ({"size": [640]}, "imagegen.json: profile.size.1"),
        ({"sizes": {"mutliple": 8}}, "imagegen.json: profile.sizes has no field 'mutliple'. Its fields are: "),
        ({"sizes": {"multiple": "x"}}, "imagegen.json: profile.sizes.multiple is 'x'"),
        ({"steps": 0}, "imagegen.json: profile.steps must be [default, minimum, maximum], in order and from 1 to 1000"),
        ({"steps": 1e9}, "imagegen.json: profile.steps must be "),
        ({"steps": [10, 20, 5]}, "imagegen.json: profile.steps must be "),
        ({"steps": [50, 1, 10]}, "imagegen.json: profile.steps must be "),
        ({"route_steps": {"batch": [0, 0, 9]}}, "imagegen.json: profile.route_steps.batch must be "),
        ({"guidance": float("nan")}, "imagegen.json: profile.guidance must be "),
        ({"strength": 0}, "imagegen.json: profile.strength must be "),
        ({"strength": [0.5, 0.1, 2]}, "imagegen.json: profile.strength must be "),
        ({"tokens": 0}, "imagegen.json: profile.tokens must be at least 1; got 0."),
        ({"size": [0, 640]}, "imagegen.json: profile.size must be from 128 to 2048 pixels; got [0, 640]."),
        ({"sizes": {"multiple": 0}}, "imagegen.json: profile.sizes.multiple must be at least 1; got 0."),
        ({"sizes": {"max_area": -4}}, "imagegen.json: profile.sizes.max_area must be at least 1; got -4."),
        ({"sizes": {"min_area": 10**9}}, "imagegen.json: profile.sizes.min_area must be at most max_area"),
    ],
)
def test_an_unusable_value_is_named(folder: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(LoadError) as error:
        load(folder, {"profile": values})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_setting_bounds_the_tokens(folder: Path, tiny_model: Path) -> None:
    assert load(folder, {}).tokens == 16  # the tokenizer's
    assert load(folder, {}, max_sequence_length=9).tokens == 9
    assert models.load(str(tiny_model), settings=Settings(max_sequence_length=512)).profile.tokens == 32


@pytest.mark.parametrize(("name", "value"), [("num_inference_steps", 31), ("guidance_scale", 0.5), ("strength", 0.05)])
def test_bounds_are_checked_by_route(name: str, value: float) -> None:
    route = "img2img" if name == "strength" else "generate"
    with pytest.raises(InputError, match=rf"^{name} must be from \S+ to \S+ for this model; got {value}\.$") as error:
        FLUX_DEV.check(route, {name: value})
    assert error.value.field == name
    qwen = Profile("Qwen-Image", Bounds(50, 1, 100), guidance=Bounds(4, 0, 20), guidance_argument="true_cfg_scale")
    with pytest.raises(InputError, match=r"^true_cfg_scale must be from 0 to 20 for this model; got 50\.$"):
        qwen.check("generate", {"true_cfg_scale": 50})
    FLUX_DEV.check("img2img", {"num_inference_steps": 31})
    FLUX_DEV.check(route, {})


def test_a_negative_prompt_needs_a_scale_that_lets_it_act() -> None:
    request = Request("a cat", negative_prompt="a dog", true_cfg_scale=1)
    with pytest.raises(InputError, match="negative_prompt has an effect only with a true_cfg_scale above 1; got 1"):
        apply_defaults(request, FLUX_DEV, {"negative_prompt", "true_cfg_scale", "guidance_scale"})


@pytest.mark.parametrize("size", [(16, 2048), (2048, 16), (20, 2000), (129, 131)])
def test_small_areas_are_not_scaled_to_long_sides(size: tuple[int, int]) -> None:
    """Positions beyond those of training make repeated or broken images."""
    factor = Sizes(min_area=1024**2, max_area=1024**2).scale(*size)
    assert 1 <= factor <= 2048 / max(size)
