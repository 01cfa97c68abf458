"""Every model family that people run, with tiny weights: tasks, exact sizes, repeatability and its own defaults."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import REGISTRY

from benchmarks.harness.waiting import LIMIT, wait_for
from imagegen import engine as engine_module
from imagegen import models, sampling
from imagegen.engine import Engine
from imagegen.errors import InputError, LoadError, Unsupported
from imagegen.http.schemas import GenerationInput
from imagegen.image_file import read_metadata
from imagegen.picture import Picture
from imagegen.profile import Sizes
from imagegen.request import Request
from imagegen.settings import Settings
from tests.imagegen import families
from tests.imagegen.families import Family
from tests.imagegen.families.page import PAGE, page

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the libraries

SIZE = 150, 130
PHOTO = Image.effect_noise(SIZE, 60).convert("RGB")
MASK = Image.linear_gradient("L").resize(SIZE).point(lambda value: 255 if value > 127 else 0)
STEPS = 2
SERVED = [name for names in families.NAMES.values() for name in names if name not in families.REFUSED]


@dataclass
class Served:
    """A family with a running engine, and its first image."""

    family: Family
    engine: Engine
    first: Picture
    tensors: list[tuple[int, ...]] = field(default_factory=list)
    """The shapes of the images that came from the pipelines."""
    steps: list[tuple[int, int]] = field(default_factory=list)
    """The reports of the first image's steps."""

    def request(self, **fields: Any) -> Request:
        """Return a request for the model's first task, or for `task`."""
        task = fields.pop("task", None) or next(iter(self.engine.model.pipelines))
        images = {} if task == "text2image" else {"image": PHOTO, "mask": MASK if task == "inpaint" else None}
        sides = dict(zip(("width", "height"), SIZE, strict=True)) if task == "text2image" else {}
        return Request(**{"prompt": "a red apple", "steps": STEPS, "seed": 1, **images, **sides, **fields})

    def generate(self, **fields: Any) -> Picture:
        return asyncio.run(self.engine.generate(self.request(**fields)))


@pytest.fixture(scope="module", params=SERVED)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start an engine whose images are small, and generate one."""
    family = families.find(request.param)
    model = models.load(str(family.write(tmp_path_factory.mktemp("families") / family.name)), settings=Settings())
    sizes = Sizes(model.profile.sizes.multiple)
    model.profile = replace(model.profile, size=(128, 128), sizes=sizes, all_tasks_work=False)
    engine = Engine(model)
    to_pil = sampling._to_pil

    def recorded(tensor: Any) -> Image.Image:
        served.tensors.append(tuple(tensor.shape))
        return to_pil(tensor)

    served = Served(family, engine, Picture(PHOTO, {}, SIZE, "", ""))
    with pytest.MonkeyPatch.context() as patch:
        if family.shrink:
            family.shrink(model.pipeline, patch)
        engine.start()
        asyncio.run(engine.warm_up())
        patch.setattr(sampling, "_to_pil", recorded)
        steps = served.steps
        generation = engine.generate(served.request(), on_step=lambda done, total: steps.append((done, total)))
        served.first = asyncio.run(generation)
        yield served
    engine.stop()


def test_every_task_that_the_weights_can_do(served: Served) -> None:
    found = served.engine.model.pipelines
    assert set(found) == {"img2img" if task == "edit" else task for task in served.family.tasks}
    for task in {"text2image", "img2img", "inpaint"} - set(found):
        with pytest.raises(Unsupported, match=f"does not support {task}"):
            served.generate(task=task)


def test_exact_sizes(served: Served) -> None:
    """The size that the response reports is that of the tensor, and the image fills the requested size."""
    pictures = [served.first, *(served.generate(task=task) for task in [*served.engine.model.pipelines][1:])]
    for picture, (_, height, width) in zip(pictures, served.tensors, strict=False):
        assert picture.generated_size == (width, height)
        assert picture.image.size == SIZE
        pixels = np.asarray(picture.image)
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert edge.std() > 0  # neither black nor empty


def test_the_seed_decides(served: Served) -> None:
    assert served.generate().encode("png") == served.first.encode("png")
    assert served.generate(seed=2).image.tobytes() != served.first.image.tobytes()


def test_steps_are_reported_and_can_be_cancelled(served: Served) -> None:
    assert served.steps[0][0] == 1
    assert served.steps[-1][0] == served.steps[-1][1]
    reported = []

    async def cancel() -> None:
        loop, cancelled = asyncio.get_running_loop(), threading.Event()

        def after_step(done: int, total: int) -> None:
            reported.append(done)
            if not cancelled.is_set():
                loop.call_soon_threadsafe(task.cancel)
                assert cancelled.wait(LIMIT)

        task = asyncio.create_task(served.engine.generate(served.request(steps=8), on_step=after_step))
        task.add_done_callback(lambda task: cancelled.set())
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    wait_for(lambda: REGISTRY.get_sample_value("imagegen_busy") == 0)
    assert reported == [1]


def test_a_negative_prompt_changes_pixels_or_is_an_error(served: Served) -> None:
    if served.family.negative and served.family.guidance != 0:
        other = served.generate(negative_prompt="a blue lake")
        assert served.first.image.tobytes() != other.image.tobytes()
        assert other.metadata["negative_prompt"] == "a blue lake"
        assert "negative_prompt" not in served.first.metadata
        return
    with pytest.raises(InputError, match=r"^negative_prompt ") as error:
        served.generate(negative_prompt="a blue lake")
    assert error.value.field == "negative_prompt"


def test_a_bare_prompt_gets_the_models_values(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the sampling itself is left out, since 50 steps of each family would take minutes."""
    monkeypatch.setattr(engine_module, "sample", lambda model, request, canvas, **options: PHOTO.resize(canvas.size))
    request = GenerationInput(prompt="a red apple").to_request(served.engine.profile)
    if "text2image" not in served.engine.model.pipelines:
        request = replace(served.request(), steps=None)
    picture = asyncio.run(served.engine.generate(request))
    metadata = read_metadata(picture.encode())
    expected = served.family.steps, served.family.guidance
    if served.family.name == "FLUX.1-dev":  # it keeps the values of the first version
        expected = 10, 7.5
    assert (metadata["num_inference_steps"], metadata.get("guidance_scale")) == expected
    assert picture.image.size == (SIZE if request.image else (128, 128))
    if served.family.tokens:
        assert served.engine.profile.tokens <= served.family.tokens


def test_fields_that_the_model_cannot_honour(served: Served) -> None:
    profile, model = served.engine.profile, served.engine.model
    if profile.guidance is None:
        assert served.engine._complete(served.request(guidance=7.5)).guidance is None
        with pytest.raises(InputError, match="guidance_scale is not supported"):
            served.generate(guidance=3.3)
    if profile.true_cfg is None and profile.guidance_argument != "true_cfg_scale":
        with pytest.raises(InputError, match="true_cfg_scale is not supported"):
            served.generate(true_cfg_scale=3.0)
    for task in {"img2img", "inpaint"} & set(model.pipelines):
        if "strength" not in model.arguments(task):
            assert served.engine._complete(served.request(task=task, strength=0.75)).strength is None
            with pytest.raises(InputError, match="strength is not supported"):
                served.generate(task=task, strength=0.5)


@pytest.mark.parametrize("name", families.REFUSED)
def test_what_cannot_be_served_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    family = families.find(name)
    with pytest.raises(LoadError, match=family.refused) as error:
        models.load(str(family.write(tmp_path / name)), settings=Settings())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", families.NAMES)
def test_the_families_are_those_of_the_modules(module: str) -> None:
    found = import_module(f"tests.imagegen.families.{module}").FAMILIES
    assert tuple(family.name for family in found) == families.NAMES[module]
    assert {family.name for family in found if family.refused} == {*families.NAMES[module]} & {*families.REFUSED}


def test_the_page_of_tested_models_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "run python -m tests.imagegen.families"


@pytest.mark.parametrize(
    "fields",
    [{"width": 2048, "height": 128}, {"references": [(63, 500)]}, {"scheduler": "unipc", "width": 2048, "height": 128}],
)
def test_an_argument_that_the_pipeline_rejects_is_a_field_error(fields: dict[str, Any], tmp_path: Path) -> None:
    """FLUX.2 klein combines images with sides of 64 pixels and more, and at most eight times as long as wide."""
    engine = Engine(models.load(str(families.find("FLUX.2-klein").write(tmp_path / "klein")), settings=Settings()))
    engine.start()
    references = tuple(PHOTO.resize(size) for size in fields.pop("references", ()))
    try:
        with pytest.raises(InputError, match=r"(Aspect ratio|Image) too (extreme|small)") as error:
            asyncio.run(engine.generate(Request("a cat", steps=1, image=PHOTO, references=references, **fields)))
        expected = "scheduler" if "scheduler" in fields else "images_b64" if references else "image_b64"
        assert error.value.field == expected
        asyncio.run(engine.generate(Request("a cat", steps=1, image=PHOTO)))
    finally:
        engine.stop()
