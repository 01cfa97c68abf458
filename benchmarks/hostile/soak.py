"""Soak test: mixed traffic on the image service for half an hour, and the growth of its resources."""

import asyncio
import base64
import io
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.hostile.disconnects import STAGES, disconnect_at, reference, settle
from benchmarks.hostile.report import report
from benchmarks.hostile.rows.bodies import KIB, unclosed
from benchmarks.hostile.server import MIB, PICTURES, Server, serving
from benchmarks.hostile.wire import exchange, post

CLIENTS = 4
SAMPLES = 240
WARM = 0.25
"""The share of the time that does not count, while pools, caches and the allocator's arenas fill up."""
MEMORY_SLOPE = 32.0  # MiB per hour
_STEP = 16.0  # MiB between two samples that count as a step


def _encoded(color: tuple[int, int, int]) -> str:
    file = io.BytesIO()
    Image.new("RGB", (128, 128), color).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


_IMAGE, _MASK = _encoded((40, 80, 160)), _encoded((255, 255, 255))

Ask = Callable[[httpx.AsyncClient, int, random.Random], Any]


async def _draw(client: httpx.AsyncClient, port: int, chance: random.Random) -> int:
    body = {
        "prompt": chance.choice(["a red apple", "a lighthouse", "two green trees", "a cat on a blue background"]),
        "width": chance.randrange(128, 513),
        "height": chance.randrange(128, 513),
        "num_inference_steps": chance.randrange(1, 5),
        "format": chance.choice(["jpeg", "png", "webp"]),
    }
    return (await client.post("/generate", json=body)).status_code


async def _batch(client: httpx.AsyncClient, port: int, chance: random.Random) -> int:
    body = {"prompts": ["a dog", "a cat"], "width": 512, "height": 512, "num_inference_steps": 10}
    return (await client.post("/batch", json=body)).status_code


async def _redraw(client: httpx.AsyncClient, port: int, chance: random.Random) -> int:
    body = {"prompt": "the same in winter", "image_b64": _IMAGE, "num_inference_steps": 3}
    return (await client.post("/img2img", json=body)).status_code


async def _repaint(client: httpx.AsyncClient, port: int, chance: random.Random) -> int:
    body = {"prompt": "a boat", "image_b64": _IMAGE, "mask_b64": _MASK, "num_inference_steps": 3}
    return (await client.post("/inpaint", json=body)).status_code


async def _refused(client: httpx.AsyncClient, port: int, chance: random.Random) -> int:
    wrong = chance.choice([{"prompt": ""}, {"prompt": "x", "width": 1}, {"prompt": "x", "unknown": "x" * 10_000}, {}])
    return (await client.post("/generate", json=wrong)).status_code


async def _unknown(client: httpx.AsyncClient, port: int, chance: random.Random) -> int:
    return (await client.get(f"/nowhere/{chance.random()}")).status_code


async def _observe(client: httpx.AsyncClient, port: int, chance: random.Random) -> int:
    return (await client.get(chance.choice(["/ready", "/metrics", "/openapi.json", "/jobs"]))).status_code


async def _hostile(client: httpx.AsyncClient, port: int, chance: random.Random) -> int | str:
    sent = chance.choice(
        [
            post("/generate", unclosed(4 * KIB)),
            post("/generate", b'{"a":' + b"9" * 5000 + b"}"),
            post("/generate", b"[" * 10_000),
            post("/generate", bytes(MIB), kind="text/plain"),
            b"\x00\x01\x02\r\n\r\n",
        ]
    )
    return (await exchange(port, [sent], limit=30)).status


async def _disconnect(client: httpx.AsyncClient, port: int, chance: random.Random) -> str:
    await disconnect_at(port, chance.choice(list(STAGES)), chance)
    return "left"


MIX: dict[Ask, int] = {
    _draw: 8,
    _batch: 1,
    _redraw: 2,
    _repaint: 2,
    _refused: 6,
    _unknown: 4,
    _observe: 4,
    _hostile: 4,
    _disconnect: 8,
}


async def _traffic(server: Server, seconds: float, seed: int) -> tuple[Counter[str], list[dict[str, float]]]:
    """Run the clients for `seconds`, and return the answers and samples of the resources."""
    answers: Counter[str] = Counter()
    samples: list[dict[str, float]] = []
    began = time.monotonic()

    async def keep_asking(chance: random.Random) -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=120, trust_env=False) as client:
            while time.monotonic() - began < seconds:
                (ask,) = chance.choices(list(MIX), list(MIX.values()))
                answers[str(await ask(client, server.port, chance))] += 1

    async def keep_sampling() -> None:
        while time.monotonic() - began < seconds:
            samples.append(
                {
                    "at_s": round(time.monotonic() - began, 1),
                    "memory_mib": round(server.memory() / MIB, 2),
                    "threads": server.threads(),
                    "descriptors": server.descriptors(),
                }
            )
            await asyncio.sleep(seconds / SAMPLES)

    chance = random.Random(seed)
    await asyncio.gather(keep_sampling(), *(keep_asking(random.Random(chance.random())) for _ in range(CLIENTS)))
    return answers, samples


def slope(samples: list[dict[str, float]], what: str) -> float:
    """Fit a line through the samples after the warm-up, and return its slope per hour."""
    warm = samples[int(len(samples) * WARM) :]
    hours = np.array([sample["at_s"] for sample in warm]) / 3600
    return round(float(np.polyfit(hours, [sample[what] for sample in warm], 1)[0]), 2)


def steps(samples: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return where memory rose by more than 16 MiB after the warm-up and stayed high."""
    warm = samples[int(len(samples) * WARM) :]
    found = []
    for index in range(1, len(warm)):
        before, after = warm[index - 1]["memory_mib"], min(sample["memory_mib"] for sample in warm[index:])
        if after - max(sample["memory_mib"] for sample in warm[:index]) > _STEP:
            found.append({"at_s": warm[index]["at_s"], "from_mib": before, "to_mib": after})
    return found


def run(minutes: float, seed: int) -> dict[str, Any]:
    """Measure, print, and return the result."""
    with serving(PICTURES) as server:
        first = reference(server)
        before = settle(server)
        answers, samples = asyncio.run(_traffic(server, minutes * 60, seed))
        after = settle(server)
        last = reference(server)
    slopes = {what: slope(samples, what) for what in ("memory_mib", "threads", "descriptors")}
    risen = steps(samples)
    figures = {
        "minutes": minutes,
        "requests": answers.total(),
        "slope of memory, MiB per hour": slopes["memory_mib"],
        "slope of threads, per hour": slopes["threads"],
        "slope of descriptors, per hour": slopes["descriptors"],
        "memory before, MiB": round(before.memory / MIB, 1),
        "memory after, MiB": round(after.memory / MIB, 1),
        "steps of memory": len(risen),
        "threads before": before.threads,
        "threads after": after.threads,
        "descriptors before": before.descriptors,
        "descriptors after": after.descriptors,
    }
    faults = sum(count for answer, count in answers.items() if answer.startswith("5") and answer != "503")
    targets = {
        "no response is a 5xx other than 503": not faults,
        f"memory rises by at most {MEMORY_SLOPE:g} MiB an hour": slopes["memory_mib"] <= MEMORY_SLOPE,
        "no step of memory": not risen,
        "threads do not rise": slopes["threads"] * minutes / 60 < 1,
        "descriptors do not rise": slopes["descriptors"] * minutes / 60 < 2,
        "the same bytes for the same seed": first == last,
    }
    return report("Soak", figures, targets, answers=dict(answers), steps=risen, samples=samples)
