"""A background job: a sheet of pictures of one prompt, each with its own seed.

Run:   chutes run examples/contact_sheet.py
Begin: curl localhost:8000/jobs/contact_sheet -H 'Content-Type: application/json' -d '{"prompt": "a red apple"}'
Watch: curl localhost:8000/jobs/{id}       Fetch: curl -O localhost:8000/jobs/{id}/files/sheet.png
"""

import asyncio
from pathlib import Path
from typing import Any

from PIL import Image

from chutes.chute import Chute
from imagegen.http.schemas import GenerationInput

chute = Chute(username="myuser", name="contact-sheet", image="chutes-selfhosted:latest", concurrency=1)


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


@chute.job(timeout=3600)
async def contact_sheet(
    self: Any, prompt: str, rows: int = 2, columns: int = 4, size: int = 256, *, output_dir: str
) -> dict[str, object]:
    """Draw rows x columns pictures; cancelling the job stops within one step."""
    sheet = Image.new("RGB", (columns * size, rows * size))
    for seed in range(rows * columns):
        request = GenerationInput(prompt=prompt, width=size, height=size, seed=seed)
        picture = await self.engine.generate(request)
        sheet.paste(picture.image, (seed % columns * size, seed // columns * size))
    await asyncio.to_thread(sheet.save, Path(output_dir) / "sheet.png")
    return {"prompt": prompt, "seeds": list(range(rows * columns))}
