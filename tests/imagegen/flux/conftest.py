"""Where there is no GPU, Triton's interpreter runs the kernels, so that all tests here but a few run anywhere."""

import os
from importlib import util
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported


if util.find_spec("triton") is None:  # no wheels for this system
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.gpu)
