"""The bundled model: size, speed and prompt adherence."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training import evaluate, report

FOLDER = Path(__file__).parents[2] / "src/imagegen/bundled"


@pytest.fixture(scope="module")
def bundled() -> Any:
    torch.set_num_threads(1)
    return report.load(FOLDER)


def pixels(bundled: Path, prompt: Any, *, seed: int = 0, steps: int = 6, guidance: float = 7.5) -> Any:
    picture = report.draw(*bundled, [prompt], [seed], steps=steps, guidance=guidance)[0]
    return np.asarray(picture, np.float32)


def test_the_folder_has_at_most_24_megabytes() -> None:
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{size / 1e6:.2f} MB")
    assert size <= 24_000_000


def test_loading_and_drawing_take_seconds(bundled: Path) -> None:
    start = time.process_time()  # CPU time, so that other processes on the machine do not count
    report.load(FOLDER)
    loaded = time.process_time() - start
    pixels(bundled, "a cat", steps=1)
    start = time.process_time()
    pixels(bundled, "a cat", steps=20)
    drawn = time.process_time() - start
    print(f"loading took {loaded:.2f} s of CPU time, 20 steps {drawn:.2f} s")
    assert loaded < 4
    assert drawn < 6


def test_the_heart_and_the_backgrounds_have_the_requested_colours(bundled: Path) -> None:
    heart = pixels(bundled, "a red heart on a white background")
    red, green, blue = heart[100:156, 100:156].mean((0, 1))
    assert red > 170
    assert max(green, blue) < 110
    colours = ["blue", "yellow", "black", "green", "pink", "white"]
    drawn = [
        evaluate.background_colour(report.draw(*bundled, [f"a star on a {name} background"], [1], steps=6)[0])
        for name in colours
    ]
    right = sum(one == other for one, other in zip(drawn, colours, strict=True))
    print(f"{right} of {len(colours)} backgrounds")
    assert right >= 5


def test_an_object_can_be_recoloured(bundled: Path) -> None:
    red, _, blue = pixels(bundled, "a blue apple on a white background")[100:156, 100:156].mean((0, 1))
    assert blue > red + 40


def test_a_seed_repeats_and_another_seed_differs(bundled: Path) -> None:
    one, again, other = (pixels(bundled, "a castle", seed=seed, steps=2) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert np.abs(one - other).mean() > 3


def test_more_steps_approach_the_result_of_twenty(bundled: Path) -> None:
    prompts = ("a red apple", "a rocket at night")
    best = {text: pixels(bundled, text, steps=20) for text in prompts}
    distances = [
        float(np.mean([np.abs(pixels(bundled, text, steps=steps) - best[text]).mean() for text in prompts]))
        for steps in (2, 8)
    ]
    print(f"mean distance to 20 steps: {distances[0]:.2f} from 2, {distances[1]:.2f} from 8")
    assert distances[1] < distances[0]


def test_guidance_changes_the_image(bundled: Path) -> None:
    weak, strong = (pixels(bundled, "a lion", guidance=guidance, steps=3) for guidance in (1.0, 7.5))
    assert np.abs(weak - strong).mean() > 1


def test_diffusers_default_padding_draws_the_same_object(bundled: Path) -> None:
    pipeline, metadata = bundled
    padded = {**metadata, "max_sequence_length": 512}
    (long,) = report.draw(pipeline, padded, ["a red heart on a white background"], [0], steps=4)
    red, green, blue = np.asarray(long, np.float32)[100:156, 100:156].mean((0, 1))
    assert red > max(green, blue) + 60
