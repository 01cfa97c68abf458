"""A queue of callbacks for an event loop that wakes the loop once for all that arrive together.

Waking a loop in another thread takes a system call and a thread switch, which cost many times as much as a callback.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class Mailbox:
    """A FIFO queue of callbacks that any thread can post to `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._callbacks: deque[Callable[[], object]] = deque()
        self._wake_up_pending = False

    def post(self, callback: Callable[[], object]) -> None:
        """Schedule a callback on the loop. Raise RuntimeError if the loop is closed."""
        self._callbacks.append(callback)
        if not self._wake_up_pending:
            self._wake_up_pending = True
            try:
                self.loop.call_soon_threadsafe(self._run_posted)
            except RuntimeError:
                self._wake_up_pending = False
                raise

    def _run_posted(self) -> None:
        self._wake_up_pending = False  # first, so that a callback posted from now on wakes the loop again
        for _ in range(len(self._callbacks)):
            self._callbacks.popleft()()
