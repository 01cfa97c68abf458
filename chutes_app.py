"""The FLUX image service: `/generate`, `/batch`, `/img2img`, `/inpaint`. Run it with: chutes run chutes_app:chute."""

import asyncio

from fastapi import Response
from fastapi.responses import JSONResponse

from chutes.chute import Chute, NodeSelector
from imagegen.http.responses import Accept, batch_response, image_response
from imagegen.http.schemas import (
    BatchGenerationInput,
    GenerationInput,
    Img2ImgInput,
    InpaintInput,
    MinifiedGenerationInput,
)
from imagegen.http.service import ImageChute, install
from images.flux import image, readme

MIB = 1024 * 1024

chute = Chute(
    username="myuser",
    name="FLUX.1-dev-generator",
    readme=readme,
    image=image,
    node_selector=NodeSelector(gpu_count=1, min_vram_gb_per_gpu=80),  # required if the model is FLUX.1
    concurrency=1,
)
install(chute)  # loads the model as `self.engine`


@chute.cord(
    public_api_path="/generate",
    method="POST",
    input_schema=GenerationInput,
    minimal_input_schema=MinifiedGenerationInput,
    output_content_type="image/jpeg",
    max_body_bytes=MIB,
)
async def generate(self: ImageChute, params: GenerationInput, accept: Accept = "") -> Response:
    """Generate an image from a prompt."""
    picture = await self.engine.generate(params.to_request(self.engine.profile))
    return await image_response(picture, params.file_format(accept))


@chute.cord(public_api_path="/batch", method="POST", input_schema=BatchGenerationInput, max_body_bytes=MIB)
async def generate_batch(self: ImageChute, params: BatchGenerationInput) -> JSONResponse:
    """Generate an image for each of up to four prompts, and return a list of base64 files."""
    pictures = [await self.engine.generate(request) for request in params.to_requests(self.engine.profile)]
    return await batch_response(pictures, params.format)


@chute.cord(public_api_path="/img2img", method="POST", input_schema=Img2ImgInput, output_content_type="image/jpeg")
async def image_to_image(self: ImageChute, params: Img2ImgInput, accept: Accept = "") -> Response:
    """Transform an image by a prompt."""
    request = await asyncio.to_thread(params.to_request, self.engine.profile)  # decodes the image
    return await image_response(await self.engine.generate(request), params.file_format(accept))


@chute.cord(public_api_path="/inpaint", method="POST", input_schema=InpaintInput, output_content_type="image/png")
async def inpaint(self: ImageChute, params: InpaintInput, accept: Accept = "") -> Response:
    """Repaint an image where a mask is white and keep the rest unchanged."""
    request = await asyncio.to_thread(params.to_request, self.engine.profile)  # decodes the image and the mask
    return await image_response(await self.engine.generate(request), params.file_format(accept))
