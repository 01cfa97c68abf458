"""Stable Diffusion XL in one file: plain parameters as the request, a dict as the response.

This is the example of the hosted platform's documentation without `enable_memory_efficient_attention()`. No pipeline
of diffusers has that method, and PyTorch's attention is memory-efficient by itself.

On a 24 GB GPU: chutes download stabilityai/stable-diffusion-xl-base-1.0 && chutes run examples/sdxl.py
"""

import base64
from io import BytesIO
from typing import Any

from chutes.chute import Chute, NodeSelector
from chutes.image import Image

image = (
    Image(username="myuser", name="stable-diffusion", tag="2.1")
    .from_base("nvidia/cuda:12.4.1-runtime-ubuntu22.04")
    .with_python("3.11")
    .run_command("apt update && apt install -y python3 python3-pip git")
    .run_command("pip3 install 'torch>=2.4.0' torchvision")
    .run_command("pip3 install 'diffusers>=0.29.0' 'transformers>=4.44.0' 'accelerate>=0.33.0'")
    .run_command("pip3 install fastapi uvicorn pydantic pillow")
    .set_workdir("/app")
)

chute = Chute(
    username="myuser",
    name="stable-diffusion-xl",
    image=image,
    node_selector=NodeSelector(gpu_count=1, min_vram_gb_per_gpu=24),
    concurrency=1,  # a diffusers pipeline serves one request at a time
)


@chute.on_startup()
async def load_sd_pipeline(self: Any) -> None:
    """Load Stable Diffusion XL pipeline."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    self.pipe = StableDiffusionXLPipeline.from_pretrained(
        "stabilityai/stable-diffusion-xl-base-1.0", torch_dtype=torch.float16, use_safetensors=True
    ).to("cuda")


@chute.cord(public_api_path="/sdxl", method="POST")
async def generate_sdxl(self: Any, prompt: str, width: int = 1024, height: int = 1024) -> dict[str, str]:
    """Generate images with Stable Diffusion XL."""
    images = self.pipe(prompt, width=width, height=height, num_inference_steps=20).images

    # Return first image as base64
    buffer = BytesIO()
    images[0].save(buffer, format="PNG")
    return {"image": base64.b64encode(buffer.getvalue()).decode()}
