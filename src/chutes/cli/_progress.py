"""How far a download is: one bar on a terminal, a line now and then in a log."""

import io
import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from tqdm.std import tqdm

from chutes.cli._console import say, size

_LOG_EVERY = 10.0  # seconds


class Transfer:
    """Shows the bytes that arrive, told by the hub's client through a class in the place of its own bars."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.bar_class = type("Bar", (_Silent,), {"transfer": self})
        self._started = self._last_line = time.monotonic()
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._progress.add_task("Fetching", total=total or None)

    def __enter__(self) -> Self:
        if self._progress and self.total:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, done: float) -> None:
        """Called, from any thread, with the bytes that have arrived so far."""
        done = min(done, self.total)
        if self._progress:
            self._progress.update(self._task, completed=done)
            return
        now = time.monotonic()
        if self.total and now - self._last_line >= _LOG_EVERY:
            self._last_line = now
            rate = size(done / (now - self._started))
            say(f"Fetched {size(done)} of {size(self.total)} ({done / self.total:.0%}), {rate}/s")


class _Silent(tqdm):  # type: ignore[type-arg]  # generic in its stub alone
    """A tqdm bar that draws nothing, and passes on the bytes it counts."""

    transfer: Transfer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "file": io.StringIO(), "mininterval": 0.1})

    def display(self, *args: Any, **kwargs: Any) -> None:
        if self.unit == "B":
            self.transfer.show(self.n)
