"""Time limits of the stages, the learning-rate schedule, progress lines and the loss log."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, TypeVar

from training import distributed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BAR_WIDTH = 24
T = TypeVar("T")


class Clock:
    """The training time of a stage, summed over all runs.

    Args:
        name: the stage, for progress lines.
        minutes: the stage's total training time.
        spent: seconds that earlier runs have used.
        deadline: when this run must end, in seconds of `time.monotonic()`.
    """

    def __init__(self, name: str, minutes: float, spent: float, deadline: float) -> None:
        self.name, self.total, self.spent_before, self.deadline = name, minutes * 60, spent, deadline
        self.start = time.monotonic()
        self.reported = self.start

    def restart(self) -> None:
        """Start counting now, so that compilation does not count as training."""
        self.start = self.reported = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of training so far, including earlier runs."""
        return self.spent_before + time.monotonic() - self.start

    @property
    def progress(self) -> float:
        """The completed share of the stage, from 0 to 1."""
        return min(1.0, self.spent / self.total)

    @property
    def expired(self) -> bool:
        """Whether the stage is complete or this run must end."""
        return self.spent >= self.total or time.monotonic() >= self.deadline

    def due(self, seconds: float = 10.0) -> bool:
        """Return True at most once in `seconds`, when the next progress line is due."""
        if time.monotonic() - self.reported < seconds:
            return False
        self.reported = time.monotonic()
        return True

    def print_line(self, text: str) -> None:
        """Print a progress bar followed by `text`, in the first process only."""
        if distributed.rank():
            return
        done = round(BAR_WIDTH * self.progress)
        bar = "█" * done + "·" * (BAR_WIDTH - done)
        print(f"{self.name:12} {bar} {self.progress:4.0%} {self.spent:5.0f}s  {text}", flush=True)


def linear_decay(progress: float, start: float, floor: float = 0.02) -> float:
    """Return the learning rate's factor: one until `start`, then linearly down to `floor`."""
    return 1.0 if progress <= start else floor + (1 - floor) * (1 - progress) / (1 - start)


class Log:
    """The loss log of a run: one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **values: float | str) -> None:
        """Append a line."""
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")


def timed(label: str, function: Callable[[], T]) -> T:
    """Call a function, print its duration, and return its result."""
    start = time.monotonic()
    result = function()
    print(f"{label}: {time.monotonic() - start:.1f} s", flush=True)
    return result
