"""Time boxes: how far a stage is, at which learning rate, when to stop; and the lines that say so."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, TypeVar

from training import machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WIDTH = 24
T = TypeVar("T")


class Clock:
    """The training time of a stage over all its runs. Stops at the stage's minutes, or at the deadline of this run."""

    def __init__(self, name: str, minutes: float, spent: float, deadline: float) -> None:
        self.name, self.total, self.before, self.deadline = name, minutes * 60, spent, deadline
        self.start = time.monotonic()
        self.said = self.start

    def restart(self) -> None:
        """Begin here: compiling does not count as training."""
        self.start = self.said = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds of training so far, earlier runs included."""
        return self.before + time.monotonic() - self.start

    @property
    def progress(self) -> float:
        """The share of the stage that is done, 0 to 1."""
        return min(1.0, self.spent / self.total)

    @property
    def over(self) -> bool:
        """Whether the stage is finished or this run has to end."""
        return self.spent >= self.total or time.monotonic() >= self.deadline

    def due(self, seconds: float = 10.0) -> bool:
        """True once every so many seconds: time for a line of progress."""
        if time.monotonic() - self.said < seconds:
            return False
        self.said = time.monotonic()
        return True

    def line(self, text: str) -> None:
        """Print a progress bar with a remark; of several processes the first speaks for all."""
        if machine.rank():
            return
        done = round(WIDTH * self.progress)
        bar = "█" * done + "·" * (WIDTH - done)
        print(f"{self.name:12} {bar} {self.progress:4.0%} {self.spent:5.0f}s  {text}", flush=True)


def falling(progress: float, start: float, floor: float = 0.02) -> float:
    """The learning rate's factor: one until `start`, then linearly down to `floor`."""
    return 1.0 if progress <= start else floor + (1 - floor) * (1 - progress) / (1 - start)


class Log:
    """Losses of a run, one JSON line each, which the curves are drawn from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **values: float | str) -> None:
        """Append one line."""
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")


def timed(label: str, function: Callable[[], T]) -> T:
    """Run a step and print how long it took."""
    start = time.monotonic()
    result = function()
    print(f"{label}: {time.monotonic() - start:.1f} s", flush=True)
    return result
