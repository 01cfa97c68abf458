"""A watchdog for GPU work: it reports work that takes many times as long as the same kind of work usually does."""

import statistics
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

_HANG_FACTOR = 20  # times the usual duration
_SAMPLES = 15  # latest durations kept of each kind of work
_KINDS = 512  # kinds of work kept, the most recently used
_TICKS = 60  # checks per shortest limit


@dataclass(frozen=True, eq=False)
class _Work:
    """Work in progress. Work of one `kind` takes equally long; None means that the duration is unpredictable.

    `cancelled` is set when the caller no longer waits for the work.
    """

    kind: Hashable | None
    cancelled: threading.Event
    began: float


class Watchdog:
    """A watchdog of one thread that calls `on_hang` once, with the reason, if a piece of work hangs.

    - `hang_after`: seconds. Work hangs if it takes at least this long, and 20 times the median duration of its kind.
      The limit applies neither to the first work of a kind nor to work of kind None.
    - `cancel_timeout`: seconds in which work must end once its `cancelled` event is set.
    - `exempt`: time while this returns True does not count towards `hang_after`.

    Time is counted in short sleeps at their nominal length. So the time in which the process is stopped or the machine
    is suspended does not count.
    """

    def __init__(
        self,
        on_hang: Callable[[str], object],
        *,
        hang_after: float,
        cancel_timeout: float,
        exempt: Callable[[], bool] = lambda: False,
    ) -> None:
        self._on_hang = on_hang
        self._hang_after = hang_after
        self._cancel_timeout = cancel_timeout
        self._exempt = exempt
        self._tick = min(hang_after, cancel_timeout, 60) / _TICKS
        self._durations: dict[Hashable, tuple[float, ...]] = {}  # seconds; the kind used last is the last key
        self._work: _Work | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imagegen-watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. Any thread may call this."""
        self._stopped.set()

    def begin(self, kind: Hashable | None, cancelled: threading.Event) -> None:
        """Begin a piece of work. This completes the one before it, if any."""
        self.complete()
        self._work = _Work(kind, cancelled, time.perf_counter())

    def complete(self) -> None:
        """End the current work and keep its duration as one of its kind's usual ones."""
        work, self._work = self._work, None
        if work is None or work.kind is None:
            return
        durations = (*self._durations.pop(work.kind, ()), time.perf_counter() - work.began)
        while len(self._durations) >= _KINDS:
            del self._durations[next(iter(self._durations))]
        self._durations[work.kind] = durations[-_SAMPLES:]

    def abort(self) -> None:
        """End the current work, which failed or was cancelled, and forget its duration."""
        self._work = None

    def _run(self) -> None:
        seen: _Work | None = None
        elapsed = since_cancelled = 0.0
        while not self._stopped.wait(self._tick):
            work = self._work
            if work is None or work is not seen:
                seen, elapsed, since_cancelled = work, 0.0, 0.0
                continue
            elapsed += 0.0 if self._exempt() else self._tick
            since_cancelled += self._tick if work.cancelled.is_set() else 0.0
            if reason := self._hang_reason(work, elapsed, since_cancelled):
                self._on_hang(reason)
                return

    def _hang_reason(self, work: _Work, elapsed: float, since_cancelled: float) -> str | None:
        """Return why this work counts as hung, or None if it does not."""
        if since_cancelled >= self._cancel_timeout:
            return f"The GPU has not responded for {since_cancelled:.0f} s after its request was cancelled"
        durations = self._durations.get(work.kind)
        if elapsed < self._hang_after or not durations:
            return None
        usual = statistics.median(durations)
        if elapsed < _HANG_FACTOR * usual:
            return None
        return f"The GPU hangs: work that usually takes {usual:.2g} s is still running after {elapsed:.0f} s"
