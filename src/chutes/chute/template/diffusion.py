"""A chute that generates images with any diffusers pipeline: `imagegen` behind one route."""

from collections.abc import Callable
from typing import Any

from fastapi import Response
from pydantic import BaseModel, Field

import imagegen
from chutes._warn import warn
from chutes.chute.base import Chute, ChutePack
from chutes.chute.node_selector import NodeSelector
from chutes.image import Image
from chutes.image.standard.diffusion import DIFFUSION
from imagegen.http.responses import image_response
from imagegen.http.schemas import Guidance, Prompt, Seed, Text
from imagegen.http.service import ImageChute, install
from imagegen.limits import MAX_SIDE, MIN_SIDE


class GenerationInput(BaseModel):
    """The body of `/generate`."""

    prompt: Prompt
    negative_prompt: Text = ""
    height: int = Field(default=1024, ge=MIN_SIDE, le=MAX_SIDE)
    width: int = Field(default=1024, ge=MIN_SIDE, le=MAX_SIDE)
    num_inference_steps: int = Field(default=25, ge=1, le=50)
    guidance_scale: Guidance = 7.5
    seed: Seed | None = None


class MinifiedGenerationInput(BaseModel):
    """The smallest body of `/generate`."""

    prompt: str = "a beautiful mountain landscape"


class DiffusionChute(ChutePack):
    """The chute, and the function of its route."""

    generate: Callable[..., Any]


def build_diffusion_chute(
    username: str,
    name: str,
    model_name_or_url: str,
    node_selector: NodeSelector,
    tagline: str = "",
    readme: str = "",
    concurrency: int = 3,
    version: str | None = None,
    revision: str | None = None,
    image: str | Image = DIFFUSION,
    pipeline_args: dict[str, Any] | None = None,
    max_instances: int = 1,
    scaling_threshold: float = 0.75,
    shutdown_after_seconds: int = 300,
    tee: bool = False,
) -> DiffusionChute:
    """Build a chute whose `POST /generate` answers with a JPEG.

    `model_name_or_url` is a folder in diffusers' layout, or a Hugging Face ID that `chutes download` fetched. The GPU
    generates one image at a time; `concurrency` requests may be prepared and encoded meanwhile. `version` and
    `pipeline_args` have no effect. The other arguments are those of `Chute`.
    """
    for option, value in {"version": version, "pipeline_args": pipeline_args}.items():
        if value:
            warn(f"build_diffusion_chute: {option}= has no effect.")
    chute = Chute(
        username=username,
        name=name,
        image=image,
        tagline=tagline,
        readme=readme,
        standard_template="diffusion",
        revision=revision,
        node_selector=node_selector,
        concurrency=concurrency,
        max_instances=max_instances,
        scaling_threshold=scaling_threshold,
        shutdown_after_seconds=shutdown_after_seconds,
        tee=tee,
    )
    install(chute, model_name_or_url)

    @chute.cord(
        public_api_path="/generate",
        minimal_input_schema=MinifiedGenerationInput,
        output_content_type="image/jpeg",
        max_body_bytes=1024 * 1024,
    )
    async def generate(self: ImageChute, params: GenerationInput) -> Response:
        """Generate an image from a prompt."""
        request = imagegen.Request(
            prompt=params.prompt,
            negative_prompt=params.negative_prompt or None,
            width=params.width,
            height=params.height,
            steps=params.num_inference_steps,
            guidance=params.guidance_scale,
            seed=params.seed,
        )
        return await image_response(await self.engine.generate(request))

    return DiffusionChute(chute=chute, generate=generate)
