"""The handler of `benchmarks.overhead` as a cord and as a FastAPI route."""

from fastapi import FastAPI
from pydantic import BaseModel

from chutes.chute import Chute


class Prompt(BaseModel):
    """The request body."""

    prompt: str


chute = Chute(username="benchmark", name="overhead", image="none", concurrency=64)


@chute.cord(public_api_path="/echo")
async def echo(self: Chute, params: Prompt) -> dict[str, str]:
    """Return the prompt, as a cord."""
    return {"echo": params.prompt}


plain = FastAPI()


@plain.post("/echo")
async def plain_echo(params: Prompt) -> dict[str, str]:
    """Return the prompt, as a FastAPI route."""
    return {"echo": params.prompt}
