"""The image service of the hosted platform's documentation in one file: FLUX.1-dev with /batch, /img2img and /inpaint.

It differs from that documentation in four points. `max_length` replaces the deprecated `max_items`. Image to image and
inpainting use FLUX's own pipelines on the components that are already loaded. The container image is built, not
pulled. The model is read from the Hugging Face cache, into which `chutes download` writes it.

`chutes_app.py` serves the same routes for production: it does not block, can be cancelled, and validates its input.

On an 80 GB GPU: chutes download black-forest-labs/FLUX.1-dev && chutes run examples/my_image_gen.py
"""

import base64
import uuid
from io import BytesIO
from typing import Any

from fastapi import Response
from PIL import Image as PILImage
from pydantic import BaseModel, Field

from chutes.chute import Chute, NodeSelector
from chutes.image import Image

readme = """`FLUX.1 [dev]` is a 12 billion parameter rectified flow transformer that generates images from text."""

image = (
    Image(username="myuser", name="flux.1-dev", tag="0.0.2", readme=readme)
    .from_base("nvidia/cuda:13.0.2-runtime-ubuntu24.04")
    .apt_install(["python3", "python3-venv"])
    .run_command("python3 -m venv /opt/venv")
    .with_env("PATH", "/opt/venv/bin:$PATH")
    .pip_install(["torch", "diffusers", "transformers", "accelerate", "sentencepiece", "protobuf", "pillow"])
)

chute = Chute(
    username="myuser",
    name="FLUX.1-dev-generator",
    readme=readme,
    image=image,
    node_selector=NodeSelector(
        gpu_count=1,
        min_vram_gb_per_gpu=80,  # the weights alone take 34 GB
    ),
    # One request runs at a time; others wait in a queue.
    concurrency=1,
)


class GenerationInput(BaseModel):
    """The body of /generate."""

    prompt: str
    height: int = Field(default=1024, ge=128, le=2048)
    width: int = Field(default=1024, ge=128, le=2048)
    num_inference_steps: int = Field(default=10, ge=1, le=30)
    guidance_scale: float = Field(default=7.5, ge=1.0, le=20.0)
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)


class MinifiedGenerationInput(BaseModel):
    """The smallest body of /generate."""

    prompt: str = "a beautiful mountain landscape"


class BatchGenerationInput(BaseModel):
    """The body of /batch."""

    prompts: list[str] = Field(max_length=4)  # Limit batch size
    width: int = Field(default=1024, ge=512, le=2048)
    height: int = Field(default=1024, ge=512, le=2048)
    num_inference_steps: int = Field(default=20, ge=10, le=50)


class Img2ImgInput(BaseModel):
    """The body of /img2img."""

    prompt: str
    image_b64: str  # Base64 encoded input image
    strength: float = Field(default=0.75, ge=0.1, le=1.0)
    guidance_scale: float = Field(default=7.5, ge=1.0, le=20.0)


class InpaintInput(BaseModel):
    """The body of /inpaint."""

    prompt: str
    image_b64: str  # Original image
    mask_b64: str  # Mask (white = inpaint, black = keep)
    strength: float = Field(default=0.75, ge=0.1, le=1.0)


@chute.on_startup()
async def initialize_pipeline(self: Any) -> None:
    """Load the components once and make three pipelines of them."""
    import torch
    from diffusers import FluxImg2ImgPipeline, FluxInpaintPipeline, FluxPipeline

    self.torch = torch
    torch.cuda.empty_cache()
    torch.cuda.init()
    torch.cuda.set_device(0)

    self.pipeline = FluxPipeline.from_pretrained(
        "black-forest-labs/FLUX.1-dev",
        torch_dtype=torch.bfloat16,
        local_files_only=True,
    ).to("cuda")
    self.img2img_pipe = FluxImg2ImgPipeline(**self.pipeline.components)
    self.inpaint_pipe = FluxInpaintPipeline(**self.pipeline.components)


@chute.cord(
    # Expose this function via HTTP, as {host}/generate
    public_api_path="/generate",
    # The function is invoked via POSTs.
    method="POST",
    # Input/minimal input schemas.
    input_schema=GenerationInput,
    minimal_input_schema=MinifiedGenerationInput,
    # Set output content type header to image/jpeg so we can return the raw image.
    output_content_type="image/jpeg",
)
async def generate(self: Any, params: GenerationInput) -> Response:
    """Generate an image."""
    generator = None
    if params.seed is not None:
        generator = self.torch.Generator(device="cuda").manual_seed(params.seed)
    with self.torch.inference_mode():
        result = self.pipeline(
            prompt=params.prompt,
            height=params.height,
            width=params.width,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            max_sequence_length=256,
            generator=generator,
        )
    image = result.images[0]
    buffer = BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    buffer.seek(0)
    return Response(
        content=buffer.getvalue(),
        media_type="image/jpeg",
        headers={"Content-Disposition": f'attachment; filename="{uuid.uuid4()}.jpg"'},
    )


@chute.cord(public_api_path="/batch", method="POST")
async def generate_batch(self: Any, params: BatchGenerationInput) -> list[str]:
    """Generate multiple images from prompts."""
    results = []

    for prompt in params.prompts:
        with self.torch.inference_mode():
            result = self.pipeline(
                prompt=prompt,
                width=params.width,
                height=params.height,
                num_inference_steps=params.num_inference_steps,
            )

        # Convert to base64
        buffer = BytesIO()
        result.images[0].save(buffer, format="JPEG", quality=90)
        b64_image = base64.b64encode(buffer.getvalue()).decode()
        results.append(b64_image)

    return results


@chute.cord(public_api_path="/img2img", method="POST")
async def image_to_image(self: Any, params: Img2ImgInput) -> Response:
    """Transform images with text prompts."""
    # Decode input image
    image_data = base64.b64decode(params.image_b64)
    init_image = PILImage.open(BytesIO(image_data)).convert("RGB")

    # Generate transformed image
    with self.torch.inference_mode():
        result = self.img2img_pipe(
            prompt=params.prompt,
            image=init_image,
            strength=params.strength,
            guidance_scale=params.guidance_scale,
        )

    # Return as JPEG
    buffer = BytesIO()
    result.images[0].save(buffer, format="JPEG", quality=85)
    buffer.seek(0)

    return Response(content=buffer.getvalue(), media_type="image/jpeg")


@chute.cord(public_api_path="/inpaint", method="POST")
async def inpaint(self: Any, params: InpaintInput) -> Response:
    """Inpaint regions of images."""
    # Decode images
    image_data = base64.b64decode(params.image_b64)
    mask_data = base64.b64decode(params.mask_b64)

    image = PILImage.open(BytesIO(image_data)).convert("RGB")
    mask = PILImage.open(BytesIO(mask_data)).convert("L")

    # Generate inpainted result
    result = self.inpaint_pipe(
        prompt=params.prompt,
        image=image,
        mask_image=mask,
        strength=params.strength,
    )

    # Return result
    buffer = BytesIO()
    result.images[0].save(buffer, format="PNG")
    buffer.seek(0)

    return Response(content=buffer.getvalue(), media_type="image/png")
