"""`install(chute)`: every service starts its engine the same way and answers its errors the same way."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

import imagegen
from chutes.chute import Chute, NodeSelector
from chutes.chute.template.diffusion import build_diffusion_chute
from chutes.loader import load_chute
from imagegen import memory
from imagegen.errors import ImagegenError, NodeTooSmall, OutOfMemory
from imagegen.http.service import install, start_engine, stop_engine

ROOT = Path(__file__).parents[3]
INIT_TEMPLATE = ROOT / "src" / "chutes" / "cli" / "template.py.txt"


def initialized(folder: Path) -> Chute:
    """The chute that `chutes init` writes."""
    file = folder / "my_pictures.py"
    file.write_text(INIT_TEMPLATE.read_text().replace("{{name}}", "pictures").replace("{{module}}", "my_pictures"))
    return load_chute(str(file))


SERVICES = {
    "chutes_app": lambda _: load_chute("chutes_app:chute"),
    "init": initialized,
    "template": lambda _: build_diffusion_chute("me", "sdxl", "org/sdxl", NodeSelector()).chute,
    "streaming": lambda _: load_chute(str(ROOT / "examples" / "streaming.py")),
    "contact_sheet": lambda _: load_chute(str(ROOT / "examples" / "contact_sheet.py")),
}


@pytest.mark.parametrize("service", SERVICES)
def test_out_of_memory_has_the_same_answer_in_every_service(service: Any, tmp_path: Path) -> None:
    handler = SERVICES[service](tmp_path).exception_handlers[ImagegenError]
    answer = asyncio.run(handler(Request({"type": "http"}), OutOfMemory("Request a smaller one.")))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert json.loads(answer.body) == {"detail": "Request a smaller one.", "code": "out_of_memory"}


def chute(**options: object) -> Chute:
    return Chute(username="me", name="pictures", image="image", **options)


def test_the_engine_lives_as_long_as_the_chute(tiny_model: Path) -> None:
    service = chute()
    install(service, str(tiny_model))

    async def live() -> imagegen.Picture:
        async with service.router.lifespan_context(service):
            return await service.engine.generate(imagegen.Request("a cat", seed=1, steps=1))

    assert asyncio.run(live()).seed == 1
    assert service.info["model"] == "tiny-random"
    with pytest.raises(imagegen.EngineStopped):
        asyncio.run(service.engine.generate(imagegen.Request("a cat")))


def test_a_node_selector_is_what_the_machine_must_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "gpus", list)
    flux = "black-forest-labs/FLUX.1-dev"
    with pytest.raises(NodeTooSmall, match=r"1 GPU\(s\) with 80 GB each"):
        asyncio.run(start_engine(chute(node_selector=NodeSelector(min_vram_gb_per_gpu=80)), flux))


def test_stopping_before_the_model_was_loaded_is_fine() -> None:
    asyncio.run(stop_engine(chute()))


WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Missing())
from chutes.cli import app
app(["run", "chutes_app:chute", "--port", "0"])
"""


def test_without_the_extra_a_chute_ends_with_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, cwd=ROOT, check=False)
    (line,) = [line for line in done.stderr.splitlines() if "failed" in line]
    assert "imagegen needs the package torch. Install it with: pip install 'chutes-selfhosted[imagegen]'" in line
    assert "Traceback" not in done.stderr
    assert done.returncode == 3
