"""The image service, with a stream added, so that clients can also leave while an answer is being sent."""

import asyncio
from typing import Any

from chutes_app import chute

__all__ = ["chute", "stream"]


@chute.cord(public_api_path="/stream", stream=True, output_content_type="application/octet-stream")
async def stream(self: Any) -> Any:
    """Send 16 KiB at a time for as long as anyone reads."""
    while True:
        yield b"x" * 16_384
        await asyncio.sleep(0.01)
