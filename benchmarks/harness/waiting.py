"""Waiting for a condition, with one limit that ends a test whose condition never holds.

The limit does not measure speed. It is far longer than a busy machine needs, so that a test fails only for what it
tests. `python -m benchmarks.latency` measures speed.
"""

import time
from collections.abc import Callable

LIMIT = 300.0  # seconds


def wait_for(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"The condition did not hold within {limit:g} seconds"
        time.sleep(0.01)
