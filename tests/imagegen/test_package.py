"""`import imagegen`: the names it offers, and what it leaves unimported."""

import subprocess
import sys
from typing import Any

import pytest

import imagegen

HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL")

LIGHT = f"""
import sys
import imagegen, imagegen.http.responses, imagegen.http.schemas, imagegen.http.service, imagegen.settings
print([name for name in {HEAVY} if name in sys.modules])
"""

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Missing())
import imagegen
try:
    imagegen.load("bundled")
except imagegen.MissingExtra as error:
    print(error)
"""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", imagegen.__all__)
def test_every_name_is_there(name: Any) -> None:
    assert getattr(imagegen, name).__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'paint'"):
        imagegen.paint  # noqa: B018


def test_nothing_heavy_is_imported() -> None:
    assert python(LIGHT) == "[]"


def test_a_missing_package_names_the_extra() -> None:
    message = "imagegen needs the package torch. Install it with: pip install 'chutes-selfhosted[imagegen]'"
    assert python(WITHOUT) == message
