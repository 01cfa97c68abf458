"""What many tests share: the model that ships, and a tiny random FLUX for what does not look at pictures."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
    os.environ.pop(name, None)  # so that a test's HOME decides where caches are
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models here are so small that threads only cost
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, whose interpreter then runs the kernels

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # an example takes as long as a busy machine needs


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that run for minutes, unless `-m` names their marker."""
    left_out = [
        item
        for item in items
        if any(item.get_closest_marker(name) and name not in config.option.markexpr for name in ("soak", "fuzz"))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def bundled() -> Path:
    """The folder of the model that ships: it draws at 256 pixels, half a second for ten steps on one core."""
    return Path(__file__).parents[1] / "src" / "imagegen" / "bundled"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX pipeline folder of half a megabyte, for `IMAGEGEN_MODEL`; it draws noise at 128 pixels."""
    from tests.imagegen import tiny

    return tiny.write(tmp_path_factory.mktemp("models") / "tiny", native_size=128)
