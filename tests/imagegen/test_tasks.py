"""Which pipelines cannot be served; `test_families` tries the tasks of those that can."""

from typing import Any

import pytest

from imagegen import tasks
from imagegen.errors import LoadError


class Unconditional:
    def __call__(self, batch_size: int = 1, generator: Any = None) -> None: ...


class ByClass:
    def __call__(self, class_labels: list[int], guidance_scale: float = 4.0) -> None: ...


class ByMap:
    def __call__(self, prompt: str, control_image: Any, image: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("pipeline", "problem"),
    [
        (Unconditional(), r"takes no prompt \(Unconditional\)"),
        (ByClass(), r"needs class_labels \(ByClass\), which no request has"),
        (ByMap(), r"needs a control image \(ByMap\), which no request has"),
    ],
)
def test_a_pipeline_without_a_prompt_is_refused(pipeline: Any, problem: str) -> None:
    with pytest.raises(LoadError, match=rf"^my-model {problem}\. Choose another model\.$"):
        tasks.pipelines(pipeline, "my-model")
