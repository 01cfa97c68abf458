"""A chute as an author writes it: a typed subclass, a stream and a job. `mypy --strict` finds nothing wrong here."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, assert_type

from fastapi import Request
from pydantic import BaseModel

import chutes
from chutes import Chute, Image, NodeSelector
from chutes.chute import Cord, Job
from chutes.chute.template.vllm import build_vllm_chute


class Prompt(BaseModel):
    text: str
    copies: int = 1


class Story(BaseModel):
    text: str


class Writer(Chute):
    write: Callable[[str], str]


image = Image(username="me", name="writer", tag="1").from_base("python:3.12").apt_install("git").with_env("A", "1")
assert_type(image, Image)

chute = Writer(
    username="me",
    name="writer",
    image=image,
    node_selector=NodeSelector(gpu_count=2, min_vram_gb_per_gpu=24, include=["4090"]),
    concurrency=4,
    max_replicas=2,
    scale_up_threshold=8,
    passthrough_headers={"X-Key": "1"},
    docs_url=None,
)


@chute.on_startup(priority=10)
async def load(self: Writer) -> None:
    self.write = str.upper
    self.progress.update("loading", 1, 2, "GB")


@chute.on_shutdown()
def unload(self: Writer) -> None:
    self.info.clear()


@chute.cord(public_api_path="/write", minimal_input_schema=Prompt, max_body_bytes=1024)
async def write(self: Writer, prompt: Prompt, request: Request) -> Story:
    return Story(text=self.write(prompt.text))


@chute.cord(public_api_path="/stream", stream=True, output_content_type="text/event-stream")
async def stream(self: Writer, prompt: Prompt) -> AsyncIterator[Story]:
    for _ in range(prompt.copies):
        yield Story(text=self.write(prompt.text))


@chute.cord(method="GET")
def health(self: Writer) -> dict[str, str]:
    return {"status": "ok"}


@chute.job(timeout=3600)
async def train(self: Writer, steps: int, output_dir: str) -> float:
    return 0.0 if train.cancel_event.is_set() else steps / 2


async def use(request: Request) -> None:
    assert_type(await load(chute), None)
    assert_type(unload(chute), None)
    assert_type(await write(chute, Prompt(text="a"), request=request), Story)
    assert_type([story async for story in stream(chute, prompt=Prompt(text="a"))], list[Story])
    assert_type(health(chute), dict[str, str])
    run = assert_type(train(chute, 3, output_dir="x"), Coroutine[Any, Any, float])
    assert_type(await run, float)


def look() -> None:
    assert_type(chutes.__version__, str)
    assert_type(chute.name, str)
    assert_type(chute.image, Image | str)
    assert_type(chute.node_selector, NodeSelector | None)
    assert_type(chute.concurrency, int)
    assert_type(chute.max_instances, int)
    assert_type(chute.scale_up_threshold, float | None)
    assert_type(chute.cords, list[Cord])
    assert_type(chute.jobs, list[Job])
    assert_type(train.name, str)
    assert_type(train.timeout, int | None)
    assert_type(train.cancel_event, threading.Event)
    assert_type(chute.cords[0].input_models, list[type[BaseModel]] | None)
    served = build_vllm_chute(username="me", model_name="m", node_selector=NodeSelector(), revision="a")
    assert_type(served.command, list[str])
    assert_type(served.chute, Chute)


if __name__ == "__main__":
    asyncio.run(chute.initialize())
