"""A picture with its progress: one JSON line per step, then the picture in base64.

Run: chutes run examples/streaming.py
Ask: curl -N localhost:8000/draw -H 'Content-Type: application/json' -d '{"prompt": "a red apple"}'
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

from chutes.chute import Chute
from imagegen.http.schemas import GenerationInput

chute = Chute(username="myuser", name="streaming", image="chutes-selfhosted:latest", concurrency=1)


@chute.on_startup()
async def load(self: Any) -> None:
    """Load the model that IMAGEGEN_MODEL names, or the default."""
    from imagegen import models
    from imagegen.engine import Engine

    self.engine = Engine(await asyncio.to_thread(models.load), on_failure=self.fail)
    self.engine.start()
    await self.engine.warm_up()


@chute.on_shutdown()
async def stop(self: Any) -> None:
    """Let go of the GPU."""
    await asyncio.to_thread(self.engine.stop)


@chute.cord(public_api_path="/draw", stream=True)
async def draw(self: Any, params: GenerationInput) -> AsyncIterator[dict[str, object]]:
    """Draw, telling each step. A client that leaves stops the drawing within one."""
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    def tell(done: int, total: int) -> None:  # on the engine's thread
        loop.call_soon_threadsafe(steps.put_nowait, (done, total))

    drawing = asyncio.create_task(self.engine.generate(params, on_step=tell))
    drawing.add_done_callback(lambda _: steps.put_nowait(None))
    try:
        while step := await steps.get():
            yield {"step": step[0], "of": step[1]}
        picture = await drawing
        content = await asyncio.to_thread(picture.encode, params.format)
        yield {"seed": picture.seed, "image": base64.b64encode(content).decode()}
    finally:
        drawing.cancel()
