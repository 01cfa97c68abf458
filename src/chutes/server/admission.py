"""Admission: so many requests run, so many more wait in line, the rest are turned away.

Counting only; nothing here knows HTTP. A slot belongs to the work and not to the request that asked for it: a client
may be long gone while its handler still holds the GPU. All of it is called on one event loop, and nothing in it
waits.
"""

import asyncio
import math
import time
from collections import deque

from chutes.exception import Draining, QueueFull

_WEIGHT = 0.2  # of the newest duration in the running mean
_LONGEST_RETRY = 120  # seconds; some clients, OpenAI's among them, heed no longer Retry-After


class Admission:
    """`concurrency` slots, and in front of them a first-in-first-out line of at most `queue_size`."""

    def __init__(self, concurrency: int, queue_size: int) -> None:
        self.concurrency = max(1, concurrency)
        self.queue_size = queue_size
        self.running = 0
        self.closed = False
        self._queue: deque[asyncio.Future[None]] = deque()
        self._mean = 0.0
        self._idle: asyncio.Future[None] | None = None

    @property
    def queued(self) -> int:
        """How many wait in line."""
        return len(self._queue)

    @property
    def retry_after(self) -> int:
        """In how many seconds a place is likely to be free, from how long the work took lately; at least 1."""
        turns = (len(self._queue) + 1) / self.concurrency
        return min(_LONGEST_RETRY, max(1, math.ceil(self._mean * turns)))

    def check(self) -> None:
        """Refuse what could not acquire now: Draining, QueueFull."""
        if self.closed:
            raise Draining(headers={"Connection": "close"})
        if self.running >= self.concurrency and len(self._queue) >= self.queue_size:
            raise QueueFull(headers={"Retry-After": str(self.retry_after)})

    def acquire(self) -> bool:
        """Take a slot if one is free; whoever has one calls `release` when the work is done."""
        if self.closed or self.running >= self.concurrency:
            return False
        self.running += 1
        return True

    def enqueue(self) -> asyncio.Future[None]:
        """A waiter that is done once a slot was taken for it, or Draining was raised in it. QueueFull, Draining."""
        self.check()
        waiter = asyncio.get_running_loop().create_future()
        if self.acquire():
            waiter.set_result(None)
        else:
            self._queue.append(waiter)
        return waiter

    def withdraw(self, waiter: asyncio.Future[None]) -> None:
        """Leave the line; if the slot came in the same moment, hand it on."""
        if waiter in self._queue:
            self._queue.remove(waiter)
            waiter.cancel()
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._pass_slot_on()

    def release(self, began: float) -> None:
        """Give the slot back; `began` (monotonic) is when the work did."""
        took = time.monotonic() - began
        self._mean = self._mean + _WEIGHT * (took - self._mean) if self._mean else took
        self._pass_slot_on()

    def _pass_slot_on(self) -> None:
        """To the first in line if there is one: nobody who comes later can get in between."""
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.running -= 1
        if not self.running and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def close(self) -> None:
        """Admit nobody any more; those in line are told so, those who run go on."""
        self.closed = True
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_exception(Draining(headers={"Connection": "close"}))

    async def wait_idle(self) -> None:
        """Until nothing runs any more."""
        if not self.running:
            return
        if self._idle is None or self._idle.done():
            self._idle = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._idle)  # others may wait for the same
