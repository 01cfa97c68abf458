import re

import pytest

from chutes.image import Image
from chutes.image._python import full_version


@pytest.mark.parametrize("minor", range(8, 15))
def test_a_minor_version_means_its_latest_release(minor: int) -> None:
    assert re.fullmatch(rf"3\.{minor}\.\d+", full_version(f"3.{minor}"))


def test_full_versions_are_kept() -> None:
    assert full_version("3.11.4") == "3.11.4"
    assert full_version("3.15.0rc1") == "3.15.0rc1"


@pytest.mark.parametrize("version", ["", "3", "2.7", "3.99", "3.11.x", "latest", "3.11; rm -rf /"])
def test_invalid_versions_are_refused(version: str) -> None:
    with pytest.raises(ValueError, match="Python version must be"):
        full_version(version)


def test_the_build_has_all_it_needs() -> None:
    """The tools, the folder on python.org, and the names on the PATH."""
    text = str(Image("u", "n", "t").from_base("ubuntu:22.04").with_python("3.11"))
    version = full_version("3.11")
    assert f"https://www.python.org/ftp/python/{version}/Python-{version}.tgz" in text
    for tool in ("wget", "ca-certificates", "build-essential"):
        assert f" {tool}" in text
    assert "ln -s python3 /opt/python/bin/python" in text
    assert "ln -sf pip3 /opt/python/bin/pip" in text
    assert text.endswith("ENV PATH=/opt/python/bin:$PATH")


def test_release_candidates_are_in_the_folder_of_their_release() -> None:
    assert "/python/3.15.0/Python-3.15.0rc1.tgz" in str(Image("u", "n", "t").with_python("3.15.0rc1"))


def test_the_default_version() -> None:
    assert "Python-3.10.15.tgz" in str(Image("u", "n", "t").with_python())
