"""These tests run on a GPU where there is one; elsewhere Triton's interpreter runs the kernels (tests/conftest.py)."""

from importlib import util
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
if util.find_spec("triton") is None:  # Triton has no wheels for this system
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Use the same random numbers in each run, so that error bounds hold always or never."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.gpu)
