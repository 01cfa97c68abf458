"""A background job: a sheet of images of one prompt, each with its own seed.

Run:   chutes run examples/contact_sheet.py
Start: curl localhost:8000/jobs/contact_sheet -H 'Content-Type: application/json' -d '{"prompt": "a red apple"}'
Poll:  curl localhost:8000/jobs/{id}
Fetch: curl -O localhost:8000/jobs/{id}/files/sheet.png
"""

import asyncio
from pathlib import Path

from PIL import Image

import imagegen
from chutes.chute import Chute
from imagegen.http.service import ImageChute, install

chute = Chute(username="myuser", name="contact-sheet", image="chutes-selfhosted:latest", concurrency=1)
install(chute)  # loads the model as `self.engine`; IMAGEGEN_MODEL chooses it


@chute.job(timeout=3600)
async def contact_sheet(
    self: ImageChute, prompt: str, rows: int = 2, columns: int = 4, size: int = 256, *, output_dir: str
) -> dict[str, object]:
    """Generate rows x columns images. Cancelling the job stops within one step."""
    sheet = Image.new("RGB", (columns * size, rows * size))
    for seed in range(rows * columns):
        picture = await self.engine.generate(imagegen.Request(prompt, width=size, height=size, seed=seed))
        sheet.paste(picture.image, (seed % columns * size, seed // columns * size))
    await asyncio.to_thread(sheet.save, Path(output_dir) / "sheet.png")
    return {"prompt": prompt, "seeds": list(range(rows * columns))}
