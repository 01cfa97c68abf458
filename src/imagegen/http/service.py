"""Give a chute an image engine: `install(chute)` adds its start, its end and its error answers."""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse

import imagegen
from chutes.chute import Chute
from imagegen.errors import ImagegenError
from imagegen.http.responses import error_response
from imagegen.settings import Settings

if TYPE_CHECKING:
    from imagegen.engine import Engine
    from imagegen.memory import GpuRequirements

log = logging.getLogger(__name__)


class ImageChute(Protocol):
    """A chute after `install`, as the type of a cord's `self`."""

    engine: "Engine"


def install(chute: Chute, model: str | None = None) -> None:
    """Load a model when the chute starts, and serve it as `chute.engine`.

    `model` is a pipeline folder, a hub id or `bundled`; None means the one that IMAGEGEN_MODEL names, or the default.
    The other IMAGEGEN_* settings apply as well. A large model is refused if the machine is smaller than the chute's
    `node_selector`, unless IMAGEGEN_MEMORY is set. Errors of `imagegen` become HTTP answers.
    """

    @chute.on_startup()
    async def start(self: Chute) -> None:
        await start_engine(self, model)

    chute.on_shutdown()(stop_engine)

    @chute.exception_handler(ImagegenError)
    async def answer(request: Request, error: ImagegenError) -> JSONResponse:
        return error_response(error)


async def start_engine(chute: Any, model: str | None = None) -> None:
    """Load a model into `chute.engine` and generate a first picture, so that the first request is fast."""
    chute.progress.update("importing torch and diffusers")
    settings = Settings.read()
    load, engine_class = imagegen.load, imagegen.Engine
    progress = partial(chute.progress.update, unit="B")
    required = _requirements(chute)
    loaded = await asyncio.to_thread(load, model, settings=settings, requirements=required, progress=progress)
    chute.engine = engine_class(loaded, oom_fallback=settings.oom_fallback, on_failure=chute.fail)
    chute.engine.start()
    chute.progress.update("generating a first picture")
    await chute.engine.warm_up()
    chute.info.update(loaded.info)
    if loaded.info["origin"] == "bundled":
        log.warning("Pictures come from the small bundled model. Set IMAGEGEN_MODEL to use another one")


async def stop_engine(chute: Any) -> None:
    """Stop the engine within one denoising step; do nothing if the model was never loaded."""
    if hasattr(chute, "engine"):
        await asyncio.to_thread(chute.engine.stop)


def _requirements(chute: Any) -> "GpuRequirements | None":
    """Return the GPUs that the chute's node selector requires; None if it has no selector."""
    from imagegen.memory import GpuRequirements

    node = chute.node_selector
    return GpuRequirements(node.gpu_count, node.min_vram_gb_per_gpu) if node else None
