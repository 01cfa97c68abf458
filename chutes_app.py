"""FLUX as a service: `/generate`, `/batch`, `/img2img`, `/inpaint`. Run it with: chutes run chutes_app:chute."""

import asyncio
import base64
import logging
import uuid
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from chutes.chute import Chute, NodeSelector
from imagegen.errors import ImagegenError, InputError
from imagegen.http.schemas import (
    BatchGenerationInput,
    GenerationInput,
    Img2ImgInput,
    InpaintInput,
    MinifiedGenerationInput,
)
from images.flux import image, readme

log = logging.getLogger(__name__)

MIB = 1024 * 1024

chute = Chute(
    username="myuser",
    name="FLUX.1-dev-generator",
    readme=readme,
    image=image,
    node_selector=NodeSelector(gpu_count=1, min_vram_gb_per_gpu=80),  # asked for when FLUX.1 is what is loaded
    concurrency=1,
)


@chute.on_startup()
async def load_model(self: Any) -> None:
    """Load the model that IMAGEGEN_MODEL names, or the default, and draw once so that the first request is fast."""
    self.progress.update("importing torch and diffusers")
    from imagegen import models
    from imagegen.engine import Engine
    from imagegen.memory import Needs
    from imagegen.settings import Settings

    settings = Settings.read()
    needs = Needs(self.node_selector.gpu_count, self.node_selector.min_vram_gb_per_gpu)
    told = partial(self.progress.update, unit="B")
    model = await asyncio.to_thread(models.load, settings=settings, needs=needs, progress=told)
    self.engine = Engine(model, oom_fallback=settings.oom_fallback, on_failure=self.fail)
    self.engine.start()
    self.progress.update("drawing a first picture")
    await self.engine.warm_up()
    self.info.update(model.info)
    if model.info["origin"] == "bundled":
        log.warning("pictures come from the small bundled model, not from FLUX.1; IMAGEGEN_MODEL names another")


@chute.on_shutdown()
async def stop_engine(self: Any) -> None:
    """Let go of the GPU within one step."""
    if hasattr(self, "engine"):
        await asyncio.to_thread(self.engine.stop)


@chute.exception_handler(ImagegenError)
async def explain(request: Request, error: ImagegenError) -> JSONResponse:
    """Answer with the error's own status; bad input names its field as validation errors do."""
    body: dict[str, object] = {"detail": str(error), "code": error.code}
    if isinstance(error, InputError):
        body = {"detail": [{"type": error.code, "loc": ["body", error.field], "msg": f"{error.field} {error}"}]}
    return JSONResponse(body, error.status, {"Retry-After": "5"} if error.status == 503 else None)


async def as_file(picture: Any, file_format: str) -> Response:
    """Return a picture as a file to download, with what is known of it in the headers."""
    content = await asyncio.to_thread(picture.encode, file_format)
    name = f"{uuid.uuid4()}.{'jpg' if file_format == 'jpeg' else file_format}"
    headers = {**picture.headers, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=f"image/{file_format}", headers=headers)


@chute.cord(
    public_api_path="/generate",
    method="POST",
    input_schema=GenerationInput,
    minimal_input_schema=MinifiedGenerationInput,
    output_content_type="image/jpeg",
    max_body_bytes=MIB,
)
async def generate(self: Any, params: GenerationInput) -> Response:
    """Generate an image from a prompt."""
    return await as_file(await self.engine.generate(params), params.format)


@chute.cord(public_api_path="/batch", method="POST", input_schema=BatchGenerationInput, max_body_bytes=MIB)
async def generate_batch(self: Any, params: BatchGenerationInput) -> JSONResponse:
    """Generate an image for each of up to four prompts: a list of base64 files."""
    pictures = await self.engine.batch(params)
    files = [await asyncio.to_thread(each.encode, params.format, quality=90) for each in pictures]
    told = next((each for each in pictures if each.fallback), pictures[0])
    headers = {**told.headers, "X-Seed": ",".join(str(each.seed) for each in pictures)}
    return JSONResponse([base64.b64encode(file).decode() for file in files], headers=headers)


@chute.cord(public_api_path="/img2img", method="POST", input_schema=Img2ImgInput, output_content_type="image/jpeg")
async def image_to_image(self: Any, params: Img2ImgInput) -> Response:
    """Transform an image as a prompt says."""
    return await as_file(await self.engine.img2img(params), params.format)


@chute.cord(public_api_path="/inpaint", method="POST", input_schema=InpaintInput, output_content_type="image/png")
async def inpaint(self: Any, params: InpaintInput) -> Response:
    """Repaint what is white in a mask, and leave the rest as it is."""
    return await as_file(await self.engine.inpaint(params), params.format)
