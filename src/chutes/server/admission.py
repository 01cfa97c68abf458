"""Admission control: a fixed number of slots and a bounded FIFO queue.

This module only counts; it knows nothing of HTTP. A slot belongs to the work, not to the client: a client may have
disconnected while its handler still uses the GPU. All functions run on one event loop and never block.
"""

import asyncio
import math
import time
from collections import deque

from chutes.exception import Draining, QueueFull

_WEIGHT = 0.2  # of the newest duration in the moving average
_MAX_RETRY_AFTER = 120  # seconds; some clients, such as OpenAI's SDK, ignore longer values


class Admission:
    """`concurrency` slots, and a first-in-first-out queue of at most `queue_size` waiters for them."""

    def __init__(self, concurrency: int, queue_size: int) -> None:
        self.concurrency = max(1, concurrency)
        self.queue_size = queue_size
        self.running = 0
        self.closed = False
        self._queue: deque[asyncio.Future[None]] = deque()
        self._average = 0.0  # duration in seconds
        self._idle: asyncio.Future[None] | None = None

    @property
    def queued(self) -> int:
        """Number of waiters in the queue."""
        return len(self._queue)

    @property
    def retry_after(self) -> int:
        """Seconds until a slot is likely to be free, from 1 to 120, estimated from recent durations."""
        rounds = (len(self._queue) + 1) / self.concurrency
        return min(_MAX_RETRY_AFTER, max(1, math.ceil(self._average * rounds)))

    def check(self) -> None:
        """Raise Draining or QueueFull if `enqueue` would."""
        if self.closed:
            raise Draining(headers={"Connection": "close"})
        if self.running >= self.concurrency and len(self._queue) >= self.queue_size:
            raise QueueFull(headers={"Retry-After": str(self.retry_after)})

    def acquire(self) -> bool:
        """Take a slot if one is free, and return whether it was. Call `release` when the work is done."""
        if self.closed or self.running >= self.concurrency:
            return False
        self.running += 1
        return True

    def enqueue(self) -> asyncio.Future[None]:
        """Join the queue and return a future that is done when the caller has a slot.

        Raise QueueFull or Draining. The future raises Draining if the queue closes first.
        """
        self.check()
        waiter = asyncio.get_running_loop().create_future()
        if self.acquire():
            waiter.set_result(None)
        else:
            self._queue.append(waiter)
        return waiter

    def withdraw(self, waiter: asyncio.Future[None]) -> None:
        """Leave the queue. If the waiter has received a slot already, pass it on."""
        if waiter in self._queue:
            self._queue.remove(waiter)
            waiter.cancel()
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._pass_slot_on()

    def release(self, started_at: float) -> None:
        """Return a slot. `started_at` is the monotonic time at which the work began."""
        duration = time.monotonic() - started_at
        self._average = self._average + _WEIGHT * (duration - self._average) if self._average else duration
        self._pass_slot_on()

    def _pass_slot_on(self) -> None:
        """Give a slot to the first waiter, so that no later arrival can take it; free it if the queue is empty."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.running -= 1
        if not self.running and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def close(self) -> None:
        """Admit no more work, and raise Draining in every waiter. Running work continues."""
        self.closed = True
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_exception(Draining(headers={"Connection": "close"}))

    async def wait_idle(self) -> None:
        """Wait until no slot is taken."""
        if not self.running:
            return
        if self._idle is None or self._idle.done():
            self._idle = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._idle)  # several callers may wait for the same future
