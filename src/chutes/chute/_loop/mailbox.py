"""Callbacks from any thread for one event loop, with one wake-up for all that come before it looks.

Waking a loop in another thread is a system call and a change of threads, many times the cost of the callback itself.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Mailbox:
    """What other threads want done on `loop`, in the order they asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._woken = False

    def post(self, callback: Callable[[], object]) -> None:
        """Have it called on the loop soon. RuntimeError when the loop is closed."""
        self._waiting.append(callback)
        if not self._woken:
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self._empty)
            except RuntimeError:
                self._woken = False
                raise

    def _empty(self) -> None:
        self._woken = False  # before looking: whoever posts from now on wakes the loop again
        for _ in range(len(self._waiting)):
            self._waiting.popleft()()
