"""One real image service for all promises about pictures: `chutes run chutes_app:chute` on a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.promises._server import Server, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service, ready; its model draws noise of at most 512 pixels a side, a step in some 30 ms."""
    from tests.imagegen import tiny

    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEGEN_MODEL", str(tiny.write(folder / "model", native_size=512)))
        with serving(folder, "", ref=str(ROOT / "chutes_app.py")) as server:
            yield server
