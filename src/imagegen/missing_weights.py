"""Find weights that a model needs and its files lack.

The libraries only log a warning: transformers initialises such weights at random, which gives wrong images, and
diffusers leaves them without values.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from imagegen.errors import WeightsMissing


@contextmanager
def recorded() -> Iterator[dict[str, list[str]]]:
    """Yield a dict that gets, by component, the names of the weights that transformers does not find in the files."""
    module: Any = import_module("transformers.modeling_utils")
    missing: dict[str, list[str]] = {}
    log_report = getattr(module, "log_state_dict_report", None)
    if log_report is None:  # it is not part of transformers' public API
        yield missing
        return

    def record(*args: Any, **report: Any) -> None:
        if keys := getattr(report.get("loading_info"), "missing_keys", None):  # without the class's optional ones
            missing[Path(str(report.get("pretrained_model_name_or_path"))).name] = sorted(keys)
        log_report(*args, **report)

    module.log_state_dict_report = record
    try:
        yield missing
    finally:
        module.log_state_dict_report = log_report


def check(name: str, pipeline: Any, missing: Mapping[str, list[str]]) -> None:
    """Raise WeightsMissing if a component of a pipeline lacks weights. `missing` comes from `recorded`."""
    found = dict(missing)
    for part, component in pipeline.components.items():
        if hasattr(component, "state_dict") and callable(component.state_dict):
            without_values = [
                key for key, tensor in component.state_dict().items() if getattr(tensor, "is_meta", False)
            ]
            if without_values:
                found[part] = without_values
    for part, names in found.items():
        raise WeightsMissing(
            f"The weights of {name} are incomplete: {part} lacks {len(names)} weights, such as {names[0]}. "
            "Copy or download the files again, or use files that were made for this class."
        )
