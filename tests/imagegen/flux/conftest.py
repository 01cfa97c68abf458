"""A GPU is needed here only where there is one: else Triton's interpreter runs the kernels (tests/conftest.py)."""

from importlib import util
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
if util.find_spec("triton") is None:  # no wheels for this system
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers each time: an error bound holds for them or doesn't."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.gpu)
