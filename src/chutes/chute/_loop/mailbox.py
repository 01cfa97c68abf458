"""Callbacks from any thread for one event loop, with a single wake-up for those posted together.

To wake a loop in another thread takes a system call and a thread switch, many times the cost of a callback.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Mailbox:
    """Callbacks that other threads have posted to `loop`, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._woken = False

    def post(self, callback: Callable[[], object]) -> None:
        """Call the callback on the loop soon. Raise RuntimeError if the loop is closed."""
        self._waiting.append(callback)
        if not self._woken:
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self._run_posted)
            except RuntimeError:
                self._woken = False
                raise

    def _run_posted(self) -> None:
        self._woken = False  # first, so that a callback posted from now on wakes the loop again
        for _ in range(len(self._waiting)):
            self._waiting.popleft()()
