"""The progress of a download: one bar on a terminal, or a line every ten seconds in a log."""

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

from chutes.cli._console import format_bytes, note

_LOG_INTERVAL = 10.0  # seconds


class DownloadProgress:
    """The progress of one download.

    Pass `bar_class` to the hub's client as its `tqdm_class`: its bars draw nothing and report their bytes here.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.bar_class = type("Bar", (_SilentBar,), {"progress": self})
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
            self._task = self._progress.add_task("Downloading", total=total or None)

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
        """Show how many bytes have arrived so far. May be called from any thread."""
        done = min(done, self.total)
        if self._progress:
            self._progress.update(self._task, completed=done)
            return
        now = time.monotonic()
        if self.total and now - self._last_line >= _LOG_INTERVAL:
            self._last_line = now
            rate = format_bytes(done / (now - self._started))
            note(f"Downloaded {format_bytes(done)} of {format_bytes(self.total)} ({done / self.total:.0%}), {rate}/s")


class _SilentBar(tqdm):  # type: ignore[type-arg]  # generic only in its stub
    """A tqdm bar that draws nothing and reports the bytes that it counts."""

    progress: DownloadProgress

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "file": io.StringIO(), "mininterval": 0.1})

    def display(self, *args: Any, **kwargs: Any) -> None:
        if self.unit == "B":
            self.progress.show(self.n)
