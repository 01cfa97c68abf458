import subprocess
import sys
from importlib.resources import files

import pytest

import chutes
from chutes._version import version


def test_the_classes_are_those_of_their_modules() -> None:
    from chutes.chute import Chute, NodeSelector
    from chutes.image import Image

    assert (chutes.Chute, chutes.Image, chutes.NodeSelector) == (Chute, Image, NodeSelector)
    assert chutes.__version__ == version
    with pytest.raises(AttributeError, match="no attribute 'Chutes'"):
        _ = chutes.Chutes


def test_importing_the_package_imports_no_web_framework() -> None:
    code = "import chutes, sys; print(*sorted({'fastapi', 'pydantic', 'starlette', 'uvicorn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_package_is_typed() -> None:
    assert (files(chutes) / "py.typed").is_file()
