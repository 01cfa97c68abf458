"""Attach an image engine to a chute: startup hook, shutdown hook and exception handler."""

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.responses import JSONResponse

import imagegen
from chutes.chute import Chute
from imagegen.errors import ImagegenError
from imagegen.http.responses import error_response
from imagegen.http.schemas import document_profile
from imagegen.settings import Settings

if TYPE_CHECKING:
    from imagegen.engine import Engine
    from imagegen.memory import GpuRequirements

log = logging.getLogger(__name__)


class ImageChute(Chute):
    """A chute with an engine: the type of `self` in hooks and cords after `install`. Never instantiated."""

    engine: "Engine"


def install(chute: Chute, model: str | None = None) -> None:
    """Load a model when the chute starts, and serve it as `chute.engine`.

    `model` is a folder in diffusers' layout, a Hugging Face ID or `bundled`. None means the value of IMAGEGEN_MODEL, or
    else the default model. The other IMAGEGEN_* settings apply as well. A large model is refused if the machine
    has less than the chute's `node_selector` requires, unless IMAGEGEN_MEMORY is set. Errors of `imagegen` become HTTP
    responses.
    """

    @chute.on_startup()
    async def start(self: ImageChute) -> None:
        await start_engine(self, model)

    chute.on_shutdown()(stop_engine)

    @chute.exception_handler(ImagegenError)
    async def respond(request: Request, error: ImagegenError) -> JSONResponse:
        return error_response(error)


async def start_engine(chute: ImageChute, model: str | None = None) -> None:
    """Load a model, start `chute.engine`, and generate a warm-up image, so that the first request is fast."""
    chute.progress.update("importing torch and diffusers")
    settings = Settings.read()
    load, engine_class = imagegen.load, imagegen.Engine  # imports torch: takes seconds
    progress = partial(chute.progress.update, unit="B")
    required = _requirements(chute)
    loaded = await asyncio.to_thread(load, model, settings=settings, requirements=required, progress=progress)
    chute.engine = engine_class(
        loaded, oom_fallback=settings.oom_fallback, metadata=settings.metadata, on_failure=chute.fail
    )
    chute.engine.start()
    chute.progress.update("generating a warm-up image")
    await chute.engine.warm_up()
    chute.info.update(loaded.info)
    document_profile(loaded.profile)
    chute.openapi_schema = None  # it is generated again, with the model's defaults and bounds
    if loaded.origin == "bundled":
        log.warning("Images come from the small bundled model. Set IMAGEGEN_MODEL to use another one")


async def stop_engine(chute: ImageChute) -> None:
    """Stop the engine within one denoising step; do nothing if the model was never loaded."""
    if hasattr(chute, "engine"):
        await asyncio.to_thread(chute.engine.stop)


def _requirements(chute: Chute) -> "GpuRequirements | None":
    """Return the GPUs that the chute's node selector requires; None if it has no selector."""
    from imagegen.memory import GpuRequirements

    node = chute.node_selector
    return GpuRequirements(node.gpu_count, node.min_vram_gb_per_gpu) if node else None
