"""A stream with the progress of an image: one JSON line per step, then the image in base64.

Run:  chutes run examples/streaming.py
Call: curl -N localhost:8000/draw -H 'Content-Type: application/json' -d '{"prompt": "a red apple"}'
"""

import asyncio
import base64
from collections.abc import AsyncIterator

from chutes.chute import Chute
from imagegen.http.schemas import GenerationInput
from imagegen.http.service import ImageChute, install

chute = Chute(username="myuser", name="streaming", image="chutes-selfhosted:latest", concurrency=1)
install(chute)  # loads the model as `self.engine`; IMAGEGEN_MODEL chooses it


@chute.cord(public_api_path="/draw", stream=True)
async def draw(self: ImageChute, params: GenerationInput) -> AsyncIterator[dict[str, object]]:
    """Generate an image and report each step. If the client disconnects, generation stops within one step."""
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    def report(done: int, total: int) -> None:  # on the engine's thread
        loop.call_soon_threadsafe(steps.put_nowait, (done, total))

    generation = asyncio.create_task(self.engine.generate(params.to_request(self.engine.profile), on_step=report))
    generation.add_done_callback(lambda _: steps.put_nowait(None))
    try:
        while step := await steps.get():
            yield {"step": step[0], "of": step[1]}
        picture = await generation
        content = await asyncio.to_thread(picture.encode, params.format)
        yield {"seed": picture.seed, "image": base64.b64encode(content).decode()}
    finally:
        generation.cancel()
