"""A watchdog for GPU work: it reports work that takes many times as long as the same kind of work usually does."""

import statistics
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

_FACTOR = 20  # times the usual duration
_SAMPLES = 15  # latest durations kept of each kind of work
_KINDS = 512  # kinds of work kept, the most recently used
_TICKS = 60  # checks per shortest limit


@dataclass(frozen=True, eq=False)
class _Work:
    """Work in progress. Work of one `kind` takes equally long; None means that the duration is unpredictable.

    `abandoned` is set when the caller no longer waits for the work.
    """

    kind: Hashable | None
    abandoned: threading.Event
    began: float


class Watchdog:
    """A watchdog of one thread that calls `on_hang` once, with the reason, if a piece of work hangs.

    - `hang_after`: seconds. Work hangs if it takes at least this long, and 20 times the median duration of its kind.
      The limit applies neither to the first work of a kind nor to work of kind None.
    - `cancel_timeout`: seconds in which work must end once its `abandoned` event is set.
    - `exempt`: time while this returns True does not count towards `hang_after`.

    Time is counted in short sleeps at their nominal length, so a stopped process or a suspended machine has not hung.
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
        self._usual: dict[Hashable, tuple[float, ...]] = {}  # the kind used last is the last
        self._work: _Work | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imagegen-watchdog", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. Any thread may call this."""
        self._stopped.set()

    def begin(self, kind: Hashable | None, abandoned: threading.Event) -> None:
        """Begin a piece of work. This completes the one before it, if any."""
        self.complete()
        self._work = _Work(kind, abandoned, time.perf_counter())

    def complete(self) -> None:
        """End the current work and keep its duration as one of its kind's usual ones."""
        work, self._work = self._work, None
        if work is None or work.kind is None:
            return
        durations = (*self._usual.pop(work.kind, ()), time.perf_counter() - work.began)
        while len(self._usual) >= _KINDS:
            del self._usual[next(iter(self._usual))]
        self._usual[work.kind] = durations[-_SAMPLES:]

    def abort(self) -> None:
        """End the current work, which failed or was cancelled, and forget its duration."""
        self._work = None

    def _run(self) -> None:
        seen: _Work | None = None
        elapsed = abandoned_for = 0.0
        while not self._stopped.wait(self._tick):
            work = self._work
            if work is None or work is not seen:
                seen, elapsed, abandoned_for = work, 0.0, 0.0
                continue
            elapsed += 0.0 if self._exempt() else self._tick
            abandoned_for += self._tick if work.abandoned.is_set() else 0.0
            if reason := self._overdue(work, elapsed, abandoned_for):
                self._on_hang(reason)
                return

    def _overdue(self, work: _Work, elapsed: float, abandoned_for: float) -> str | None:
        """Return why this work counts as hung, or None if it does not."""
        if abandoned_for >= self._cancel_timeout:
            return f"The GPU has not responded for {abandoned_for:.0f} s after its request was cancelled"
        durations = self._usual.get(work.kind)
        if elapsed < self._hang_after or not durations:
            return None
        usual = statistics.median(durations)
        if elapsed < _FACTOR * usual:
            return None
        return f"The GPU hangs: work that usually takes {usual:.2g} s is still running after {elapsed:.0f} s"
