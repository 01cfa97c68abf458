"""A watchdog for GPU work: reports work that takes many times as long as the same work usually does."""

import statistics
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

_FACTOR = 20  # times the usual duration
_SAMPLES = 15  # durations kept of each kind of work
_KINDS = 512  # kinds of work remembered, those used last
_TICKS = 60  # per shortest limit


@dataclass(frozen=True, eq=False)
class _Work:
    """Work in progress; `kind` names work that takes equally long, or is None if the duration is unpredictable."""

    kind: Hashable | None
    abandoned: threading.Event
    began: float


class Watchdog:
    """Watches one thread's work and calls `on_hang` with the reason, once, when a piece of it does not end.

    A piece of work hangs when it takes 20 times the median duration of its kind, and at least `hang_after` seconds. The
    first one of a kind has no such limit, nor has a kind of None. Work that nobody waits for any more (`abandoned` is
    set) has to end within `patience` seconds, whatever its kind. Time during which `exempt` returns True counts towards
    `patience` only.

    Time is counted in short sleeps, each at its nominal length: a process that was stopped, or a machine that was
    suspended, has not hung.
    """

    def __init__(
        self,
        on_hang: Callable[[str], object],
        *,
        hang_after: float,
        patience: float,
        exempt: Callable[[], bool] = lambda: False,
    ) -> None:
        self._on_hang = on_hang
        self._hang_after = hang_after
        self._patience = patience
        self._exempt = exempt
        self._tick = min(hang_after, patience, 60) / _TICKS
        self._usual: dict[Hashable, tuple[float, ...]] = {}  # the kind used last is the last
        self._work: _Work | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imagegen-watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; may be called from any thread."""
        self._stopped.set()

    def begin(self, kind: Hashable | None, abandoned: threading.Event) -> None:
        """Begin a piece of work; the one before it, if any, is complete, and its duration counts as usual."""
        self.complete()
        self._work = _Work(kind, abandoned, time.perf_counter())

    def complete(self) -> None:
        """End the current work; its duration counts as usual for its kind."""
        work, self._work = self._work, None
        if work is None or work.kind is None:
            return
        durations = (*self._usual.pop(work.kind, ()), time.perf_counter() - work.began)
        while len(self._usual) >= _KINDS:
            del self._usual[next(iter(self._usual))]
        self._usual[work.kind] = durations[-_SAMPLES:]

    def abort(self) -> None:
        """End the current work, which failed or was cancelled: how long it took says nothing."""
        self._work = None

    def _run(self) -> None:
        seen: _Work | None = None
        waited = ignored = 0.0
        while not self._stopped.wait(self._tick):
            work = self._work
            if work is None or work is not seen:
                seen, waited, ignored = work, 0.0, 0.0
                continue
            waited += 0.0 if self._exempt() else self._tick
            ignored += self._tick if work.abandoned.is_set() else 0.0
            if reason := self._overdue(work, waited, ignored):
                self._on_hang(reason)
                return

    def _overdue(self, work: _Work, waited: float, ignored: float) -> str | None:
        """Return why this work counts as hung, or None if it may go on."""
        if ignored >= self._patience:
            return f"The GPU has not responded for {ignored:.0f} s after its request was cancelled"
        durations = self._usual.get(work.kind)
        if waited < self._hang_after or not durations:
            return None
        usual = statistics.median(durations)
        if waited < _FACTOR * usual:
            return None
        return f"The GPU hangs: work that usually takes {usual:.2g} s has not ended after {waited:.0f} s"
