"""Fixtures of the fuzz tests: one server for all, and examples until the time is up."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

from benchmarks.harness.server import Server, serving

SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))  # for all tests together
TESTS = 6
EXAMPLE_TIMEOUT = timedelta(seconds=5)  # for one example, on a machine that may be busy
EXAMPLES = 100  # before the seed changes and the time is checked

ECHO = """
import hashlib
from typing import Annotated, Any
from fastapi import Form, Request, UploadFile

@chute.cord(public_api_path="/any")
async def anything(self, args: dict[str, Any]) -> dict[str, Any]:
    return args

@chute.cord(public_api_path="/model")
async def model(self, prompt: str, width: int = 512, scale: float = 1.0) -> dict[str, Any]:
    return {"prompt": prompt, "width": width, "scale": scale}

@chute.cord(public_api_path="/form")
async def form(self, request: Request) -> list[list[str]]:
    seen = []
    for name, value in (await request.form()).multi_items():
        content = await value.read() if isinstance(value, UploadFile) or hasattr(value, "read") else value.encode()
        seen.append([name, getattr(value, "filename", "") or "", hashlib.sha256(content).hexdigest()])
    return seen

@chute.job()
async def work(self, steps: int = 1, name: str = "") -> int:
    return steps
"""

Fuzz = Callable[[SearchStrategy[Any], Callable[[Any], None]], int]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that must survive all examples without a 500."""
    with serving(tmp_path_factory.mktemp("fuzzed"), ECHO, concurrency=4, max_body_bytes=1_000_000) as running:
        yield running
        assert running.post("/any", json={"still": "here"}).json() == {"still": "here"}
        broken = [line for line in running.log if line.get("status", 0) == 500 or "exception" in line]
        assert not broken, broken[:3]


@pytest.fixture
def fuzz() -> Fuzz:
    """Try examples until the test's share of the time is up, and return their number."""

    def run(examples: SearchStrategy[Any], check: Callable[[Any], None]) -> int:
        tried, ends = 0, time.monotonic() + SECONDS / TESTS
        while time.monotonic() < ends:

            @seed(time.time_ns())
            @settings(
                max_examples=EXAMPLES,
                deadline=EXAMPLE_TIMEOUT,
                database=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(example=examples)
            def holds(example: Any) -> None:
                nonlocal tried
                tried += 1
                check(example)

            holds()
        return tried

    return run
