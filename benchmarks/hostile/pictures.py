"""The image service with an additional stream, for clients that disconnect while an answer is sent."""

import asyncio
from typing import Any

from chutes_app import chute

__all__ = ["chute", "stream"]


@chute.cord(public_api_path="/stream", stream=True, output_content_type="application/octet-stream")
async def stream(self: Any) -> Any:
    """Stream 16 KiB at a time without end."""
    while True:
        yield b"x" * 16_384
        await asyncio.sleep(0.01)
