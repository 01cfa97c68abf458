"""The whole server: time from process start to ready and to the first image, and `/generate` over HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.flux.image import request
from benchmarks.harness.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path


def over_http(folder: Path, precision: str = "bf16", images: int = 3) -> dict[str, Any]:
    """Serve a checkpoint with `chutes run`, and return the times that a client measures, in seconds."""
    port = free_port()
    settings = {"IMAGEGEN_MODEL": str(folder), "IMAGEGEN_PRECISION": precision, "IMAGEGEN_MAX_SEQUENCE_LENGTH": "512"}
    command = [sys.executable, "-m", "chutes", "run", "chutes_app:chute", "--port", str(port)]
    began = time.perf_counter()
    server = subprocess.Popen(command, env={**os.environ, **settings})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            figures: dict[str, Any] = {"ready": _ready(client, server) - began}
            figures["first picture"] = _generate(client, 0)
            figures["start to first picture"] = time.perf_counter() - began
            times = [_generate(client, seed) for seed in range(1, images + 1)]
            figures["generate"] = median(times)
            figures["info"] = client.get("/ready").json()
            return figures
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def _ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> float:
    """Wait until the server is ready, and return the time."""
    while server.poll() is None:
        try:
            if client.get("/ready").is_success:
                return time.perf_counter()
        except httpx.TransportError:
            pass  # the port is not open yet
        time.sleep(0.05)
    raise RuntimeError(f"The server ended with exit code {server.returncode}.")


def _generate(client: httpx.Client, seed: int) -> float:
    """Return the seconds until the last byte of an image of 28 steps at 1024x1024."""
    began = time.perf_counter()
    client.post("/generate", json=request(seed).model_dump(exclude_none=True)).raise_for_status()
    return time.perf_counter() - began
