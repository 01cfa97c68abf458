"""A bounded channel that carries a generator's items from one thread to an event loop in another."""

import asyncio
import threading
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import Any, Final

_CAPACITY = 8  # items; enough to hide the latency of a thread switch, and few enough to bound memory

END: Final = object()


class Channel:
    """A bounded queue of items for a reader on `loop`. The producer waits while it is full."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._free = _CAPACITY
        self._lock = threading.Lock()
        self._paused: asyncio.Future[None] | None = None
        self._has_room = threading.Condition(self._lock)
        self.closed = False

    # Producer, in any thread

    async def put(self, item: Any) -> None:
        """Send an item from a coroutine; wait while the channel is full."""
        with self._lock:
            if self._free <= 0 and not self.closed:
                self._paused = asyncio.get_running_loop().create_future()
        if self._paused is not None:
            await self._paused
        self._send(item)

    def put_blocking(self, item: Any) -> None:
        """Send an item from a thread; block while the channel is full."""
        with self._has_room:
            self._has_room.wait_for(lambda: self._free > 0 or self.closed)
        self._send(item)

    def _send(self, item: Any) -> None:
        with self._lock:
            self._paused = None
            self._free -= 1
        with suppress(RuntimeError):  # the reader's loop is closed
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    # Reader, on its loop

    def end(self, _: object = None) -> None:
        """Mark the end of the items. The parameter lets a future call this method when it is done."""
        self._items.put_nowait(END)

    def close(self) -> None:
        """Stop reading, so that the producer no longer waits."""
        with self._lock:
            self.closed = True
            self._wake()

    async def get(self) -> Any:
        """Return the next item, or `END`."""
        item = await self._items.get()
        with self._lock:
            self._free += 1
            self._wake()
        return item

    def _wake(self) -> None:
        self._has_room.notify()
        paused = self._paused
        if paused is not None:
            with suppress(RuntimeError):  # the producer's loop is closed
                paused.get_loop().call_soon_threadsafe(_resume, paused)


def _resume(paused: "asyncio.Future[None]") -> None:
    if not paused.done():
        paused.set_result(None)


async def pump(items: AsyncIterable[Any], channel: Channel) -> None:
    """Send the items of an async generator until the channel is closed, and close the generator."""
    iterator = aiter(items)
    try:
        async for item in iterator:
            await channel.put(item)
            if channel.closed:
                break
    finally:
        if (close := getattr(iterator, "aclose", None)) is not None:
            await close()


def pump_blocking(items: Iterable[Any], channel: Channel) -> None:
    """Send the items of a generator until the channel is closed, and close the generator in the same thread."""
    iterator = iter(items)
    try:
        for item in iterator:
            channel.put_blocking(item)
            if channel.closed:
                break
    finally:
        if (close := getattr(iterator, "close", None)) is not None:
            close()
