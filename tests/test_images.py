"""The container images install the tested versions of the extra's packages."""

import re
import tomllib
from pathlib import Path

from images import REQUIREMENTS, flux, sdxl

ROOT = Path(__file__).parents[1]


def test_the_requirements_are_those_of_the_extra_at_the_versions_that_were_tested() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["imagegen"]
    pins = [line.lower() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert [pin.partition("==")[0] for pin in REQUIREMENTS] == [re.split(r"[<>=]", each)[0] for each in extra]
    assert [pin for pin in REQUIREMENTS if pin not in pins] == []


def test_the_images_differ_only_by_name() -> None:
    assert str(sdxl.image) == str(flux.image)
    assert sdxl.image.uid != flux.image.uid
