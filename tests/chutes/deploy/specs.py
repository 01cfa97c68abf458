"""A spec as `chutes deploy` would make it."""

from typing import Any

from chutes.chute import Chute
from chutes.deploy.application import Spec, spec_for
from chutes.deploy.package import Package


def make_spec(**options: Any) -> Spec:
    chute = Chute(username="myuser", name="FLUX.1-dev-generator", image="parachutes/flux:1", concurrency=2)

    @chute.cord(public_api_path="/generate")
    async def generate(self: Any, prompt: str = "") -> str:
        return prompt

    package = Package("my_image_gen:chute", ("my_image_gen.py",), b"PK\x00\xff")
    return spec_for(chute, package, **{"ray_options": {"num_cpus": 0}, **options})
