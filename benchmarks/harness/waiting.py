"""Waiting for a condition, with one limit that ends a test whose condition never holds.

The limit does not measure speed. It is far longer than a busy machine needs, so that a test fails only for what it
tests. `python -m benchmarks.latency` measures speed.
"""

import time
from collections.abc import Callable

LIMIT = 300.0  # seconds


def wait_for(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Poll until the condition holds: every 10 ms at first, later less often, so that polling takes little CPU time."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < limit, f"The condition did not hold within {limit:g} seconds"
        time.sleep(min(max(0.01, waited / 20), 0.1))
