"""The image service that all promises about images share: `chutes run chutes_app:chute` with default settings."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.server import IMAGE_MODULES, Server, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The running service. Its bundled model generates images of 256 pixels, about 50 ms a step."""
    ref = str(ROOT / "chutes_app.py")
    with serving(tmp_path_factory.mktemp("service"), "", ref=ref, imported=IMAGE_MODULES) as server:
        yield server
