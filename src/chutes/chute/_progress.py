"""The progress of loading, which a startup hook reports and `/ready` shows."""

import threading
from typing import Any


class Progress:
    """The current stage of loading and its progress. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stage = ""
        self._done: float | None = None
        self._total: float | None = None
        self._unit = ""

    def update(self, stage: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        """Set the stage, and its done amount, total amount and unit if they are known."""
        with self._lock:
            self._stage, self._done, self._total, self._unit = stage, done, total, unit

    def snapshot(self) -> dict[str, Any]:
        """Return a dict of `stage`, `done`, `total`, `unit` and `fraction` (0 to 1, or None if it is unknown)."""
        with self._lock:
            done, total = self._done, self._total
            fraction = min(1.0, max(0.0, done / total)) if done is not None and total else None
            return {
                "stage": self._stage,
                "done": done,
                "total": total,
                "unit": self._unit,
                "fraction": fraction,
            }
