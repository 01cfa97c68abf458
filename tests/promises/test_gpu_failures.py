"""A GPU that fails ends the process with code 4, and damaged weights end it with code 3."""

import shutil
import threading
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.harness.server import IMAGE_MODULES, Server, serving, wait_for

ROOT = Path(__file__).parents[2]

SERVICE = """
import torch
from imagegen import Engine, Request, load
from imagegen.errors import ImagegenError
from imagegen.http.responses import error_response

@chute.exception_handler(ImagegenError)
async def answer(request, error):
    return error_response(error)

@chute.on_startup()
async def start(self):
    model = await asyncio.to_thread(load, {folder!r})
    self.engine = Engine(model, on_failure=self.fail, hang_after=1)
    self.engine.start()
    await self.engine.warm_up()
    transformer = model.pipeline.transformer
    forward, self.fault = transformer.forward, None

    def faulty(*args, **options):
        if self.fault == "hang":
            threading.Event().wait()
        if self.fault == "full":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*args, **options)

    transformer.forward = faulty

@chute.cord(public_api_path="/draw", method="POST")
async def draw(self, fault: str = "") -> str:
    def after_step(done, total):
        if done == 2:
            self.fault = fault

    self.fault = fault if fault == "full" else None
    picture = await self.engine.generate(Request("a cat", steps=4), on_step=after_step)
    return str(picture.metadata["num_inference_steps"])
"""


@pytest.fixture
def damaged(tiny_model: Path, tmp_path: Path) -> Path:
    """A model whose transformer has one weight that is NaN."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    (weights,) = (folder / "transformer").glob("*.safetensors")
    tensors = load_file(weights)
    tensors["proj_out.bias"][0] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def health_until_the_end(server: Server) -> list[int]:
    """Request /health until the server is gone, and return the statuses."""
    statuses = []

    def ended() -> bool:
        try:
            statuses.append(server.get("/health").status_code)
        except httpx.TransportError:
            return True
        return False

    wait_for(ended)
    return statuses


def test_a_gpu_that_hangs_ends_the_process(tmp_path: Path, tiny_model: Path) -> None:
    with serving(tmp_path, SERVICE.format(folder=str(tiny_model)), imported=IMAGE_MODULES) as server:
        assert server.post("/draw").json() == "4"
        answers = []
        request = threading.Thread(
            target=lambda: answers.append(server.post("/draw", json={"fault": "hang"}, timeout=120))
        )
        request.start()
        statuses = health_until_the_end(server)
        request.join()
        assert answers[0].status_code == 503
        assert (statuses[0], statuses[-1]) == (200, 503)
        assert server.wait() == 4
        (line,) = [line["message"] for line in server.log if line["message"].startswith("Fatal error: ")]
        print(line)
        assert "The GPU hangs" in line


def test_memory_that_stays_full_ends_the_process(tmp_path: Path, tiny_model: Path) -> None:
    with serving(tmp_path, SERVICE.format(folder=str(tiny_model)), imported=IMAGE_MODULES) as server:
        for _ in range(3):
            answer = server.post("/draw", json={"fault": "full"})
            assert (answer.status_code, answer.json()["code"]) == (503, "out_of_memory")
        assert server.wait() == 4
        assert any("Out of memory 3 times in a row" in line["message"] for line in server.log)


TEMPLATE = """
from chutes.chute import NodeSelector
from chutes.chute.template.diffusion import build_diffusion_chute

chute = build_diffusion_chute("test", "damaged", {folder!r}, NodeSelector()).chute
"""


@pytest.mark.parametrize("source", ["chutes_app", "template"])
def test_damaged_weights_are_one_line_and_exit_code_3(
    tmp_path: Path, damaged: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEGEN_MODEL", str(damaged))
    ref = str(ROOT / "chutes_app.py") if source == "chutes_app" else None
    template = TEMPLATE.format(folder=str(damaged))
    with serving(tmp_path, template, ref=ref, wait=False, imported=IMAGE_MODULES) as server:
        assert server.wait() == 3
        (line,) = [line["message"] for line in server.log if line["level"] == "error"]
        print(line)
        assert "tiny-random cannot be used in fp32: The model produced NaN or infinite values at 128x128" in line
