"""Schedulers by name: which names a model accepts, what they stand for, and that one step tells whether they work."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest

from imagegen import models, schedulers
from imagegen.engine import Engine
from imagegen.errors import InputError, LoadError
from imagegen.request import Request
from imagegen.settings import Settings
from tests.imagegen import families

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the libraries

DIFFUSION = diffusers.PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
SANA = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)


@pytest.mark.parametrize(
    ("name", "class_name", "options"),
    [
        ("EulerDiscreteScheduler", "EulerDiscreteScheduler", {}),
        ("euler", "EulerDiscreteScheduler", {}),
        ("Euler a", "EulerAncestralDiscreteScheduler", {}),
        ("euler_a", "EulerAncestralDiscreteScheduler", {}),
        ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("dpmpp_2m", "DPMSolverMultistepScheduler", {"use_karras_sigmas": False}),
        ("UniPC", "UniPCMultistepScheduler", {}),
        ("pndm", "PNDMScheduler", {}),
    ],
)
def test_names_of_a_diffusion_model(name: str, class_name: str, options: dict[str, object]) -> None:
    scheduler = schedulers.create(DIFFUSION, name)
    assert type(scheduler).__name__ == class_name
    assert {**scheduler.config, **options, "beta_end": 0.012} == dict(scheduler.config)


@pytest.mark.parametrize("name", ["dpm++ 2m", "unipc", "deis", "UniPCMultistepScheduler"])
def test_solvers_of_a_flow_model(name: str) -> None:
    config = schedulers.create(FLOW, name).config
    assert (config["use_flow_sigmas"], config["prediction_type"], config["flow_shift"]) == (True, "flow_prediction", 3)


def test_each_image_gets_a_new_scheduler_of_the_models_own_class() -> None:
    for own in (DIFFUSION, FLOW):
        new = schedulers.create(own, None)
        assert new is not own
        assert (type(new), dict(new.config)) == (type(own), dict(own.config))
    assert type(schedulers.create(FLOW, "Euler")) is type(FLOW)


@pytest.mark.parametrize(("own", "name"), [(FLOW, "ddim"), (FLOW, "dpm2 karras"), (DIFFUSION, "dopri5"), (FLOW, "")])
def test_other_names_are_an_error_with_the_list(own: Any, name: str) -> None:
    with pytest.raises(InputError, match=f"scheduler must be one of .*unipc.*; got '{name}'") as error:
        schedulers.create(own, name)
    assert error.value.field == "scheduler"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("stable-diffusion-v1-5-unchecked", "FLUX.1-dev", "Z-Image")
    return {name: families.find(name).write(tmp_path_factory.mktemp("schedulers") / name) for name in names}


def engine(folder: Path, **settings: Any) -> Engine:
    model = models.load(str(folder), settings=Settings(**settings))
    engine = Engine(model)
    engine.start()
    return engine


def request(**fields: Any) -> Request:
    return Request("a cat", width=128, height=128, steps=3, seed=1, **fields)


@pytest.mark.parametrize("family", ["stable-diffusion-v1-5-unchecked", "FLUX.1-dev", "Z-Image"])
def test_a_scheduler_works_or_is_an_error(family: str, folders: dict[str, Path]) -> None:
    """Every name that a model accepts generates another image than its own scheduler, or is a field error."""
    running = engine(folders[family])
    try:
        plain = asyncio.run(running.generate(request()))
        own = running.model.pipeline.scheduler
        works, fails = set(), set()
        for name in schedulers._choices(own):
            with suppress(InputError):
                fails.add(name)
                other = asyncio.run(running.generate(request(scheduler=name)))
                fails.remove(name)
                works.add(name)
                assert other.metadata["scheduler"] == name
                same = schedulers.create(own, name).config == own.config
                assert same == (other.image.tobytes() == plain.image.tobytes()), name
        assert {"euler", type(own).__name__} <= works
        if family == "Z-Image":  # its pipeline passes sigmas of its own
            assert works == {"euler", type(own).__name__}
        else:  # these need packages that need not be installed
            assert fails <= {"DPMSolverSDEScheduler", "LMSDiscreteScheduler", "lms"}
        again = asyncio.run(running.generate(request()))
        assert again.encode("png") == plain.encode("png")  # nothing of the others remains
    finally:
        running.stop()


def test_a_setting_names_the_default(folders: dict[str, Path]) -> None:
    folder = folders["stable-diffusion-v1-5-unchecked"]
    model = models.load(str(folder), settings=Settings(scheduler="euler a"))
    assert {type(each.scheduler).__name__ for each in model.pipelines.values()} == {"EulerAncestralDiscreteScheduler"}
    running = engine(folder, scheduler="euler a")
    try:
        picture = asyncio.run(running.generate(request()))
        assert picture.metadata["scheduler"] == "euler a"
        named = asyncio.run(running.generate(request(scheduler="euler a")))
        assert named.encode("png") == picture.encode("png")  # the metadata is a request for the same file
    finally:
        running.stop()
    with pytest.raises(LoadError, match=r"^IMAGEGEN_SCHEDULER: scheduler must be one of .*; got 'sa'\.$"):
        models.load(str(folder), settings=Settings(scheduler="sa"))


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (SANA, 3),
        (schedulers.create(FLOW, "unipc"), 3),
        (diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0), 2),
    ],
)
def test_any_scheduler_of_a_flow_model_is_replaced_by_one_for_flow_models(own: Any, expected: float) -> None:
    """Sana's own is a solver, and a setting may have chosen one."""
    for name in ("ddim", "dpm++ 2m karras", "EulerDiscreteScheduler"):
        with pytest.raises(InputError, match="scheduler must be one of"):
            schedulers.create(own, name)
    assert schedulers.create(own, "dpm++ 2m").config["flow_shift"] == expected
    euler = schedulers.create(own, "euler")
    assert (type(euler), euler.config["shift"]) == (type(FLOW), expected)


@pytest.mark.parametrize(
    "own", [DIFFUSION, FLOW, diffusers.EulerDiscreteScheduler(), diffusers.LCMScheduler(), diffusers.DDIMScheduler()]
)
def test_every_listed_scheduler_can_be_created(own: Any) -> None:
    for name in schedulers._choices(own):
        schedulers.create(own, name)


def test_one_request_that_fails_leaves_the_scheduler_to_others(folders: dict[str, Path]) -> None:
    """PNDM needs four steps."""
    running = engine(folders["stable-diffusion-v1-5-unchecked"])
    running.model.scheduler = diffusers.DDIMScheduler()  # not one that skips PNDM's first steps
    try:
        with pytest.raises(InputError, match="scheduler 'pndm' does not work with this model and these steps") as error:
            asyncio.run(running.generate(replace(request(scheduler="pndm"), steps=1)))
        assert "PNDM" not in str(error.value)
        asyncio.run(running.generate(replace(request(scheduler="pndm"), steps=8)))
    finally:
        running.stop()


def test_a_name_is_checked_against_the_models_own_scheduler_while_another_runs(folders: dict[str, Path]) -> None:
    running = engine(folders["FLUX.1-dev"])
    running.model.pipelines["text2image"].scheduler = DIFFUSION  # as if the engine's thread was using it
    try:
        asyncio.run(running.generate(request(scheduler="FlowMatchEulerDiscreteScheduler")))
        assert running.model.pipelines["text2image"].scheduler is running.model.scheduler
    finally:
        running.stop()


def test_tasks_that_do_not_take_the_setting_are_not_served(folders: dict[str, Path]) -> None:
    """FLUX.1's img2img pipeline passes values that solvers do not accept."""
    running = engine(folders["FLUX.1-dev"], scheduler="unipc")
    try:
        asyncio.run(running.warm_up())
        assert [*running.model.pipelines] == ["text2image"]
        asyncio.run(running.generate(request()))
    finally:
        running.stop()
