"""The progress of a deployment: one changing line on a terminal, or a line per phase in a log."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.text import Text

from chutes._text import printable
from chutes.cli._console import note

if TYPE_CHECKING:
    from rich.status import Status


class DeployProgress:
    """A context manager whose `report` is a `chutes.deploy.rollout.ProgressCallback`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status: Status | None = None
        self._last_line = ""
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_status()

    def _stop_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def report(self, phase: str, fraction: float | None) -> None:
        """Show a phase and its fraction from 0 to 1, if known.

        On a terminal each phase overwrites the one before, and the line of `ready` remains.
        """
        percent = f" {fraction:.0%}" if fraction is not None and phase != "ready" else ""
        line = printable(f"{phase}{percent}")  # a phase may hold text that the author wrote
        if phase == "ready":
            self._stop_status()
        if self._status is not None:
            self._status.update(Text(line))
        elif line != self._last_line:
            note(f"{line} ({time.monotonic() - self._started:.1f} s)")
        self._last_line = line
