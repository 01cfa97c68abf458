"""How the tests wait: for a condition, with one limit that only ends a test in which the condition never comes.

The limit is no measure of speed. It is far beyond what a machine with forty other processes per core needs, so that a
test fails only for what it is about; how fast things are is measured by `python -m benchmarks.latency`.
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
