"""From a generator in one thread to its reader on an event loop in another, with a bound on how far it runs ahead."""

import asyncio
import threading
from collections.abc import AsyncIterable, Iterable
from contextlib import suppress
from typing import Any, Final

_AHEAD = 8  # items that wait for the reader; enough to hide the hop, few enough that nothing piles up

END: Final = object()


class Channel:
    """Items on their way to a reader on `loop`. The producer waits when the reader is behind."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        self._room = _AHEAD
        self._lock = threading.Lock()
        self._waiting: asyncio.Future[None] | None = None
        self._has_room = threading.Condition(self._lock)
        self.closed = False

    # The producer's side: any thread.

    async def put(self, item: Any) -> None:
        """Send an item from a coroutine."""
        with self._lock:
            if self._room <= 0 and not self.closed:
                self._waiting = asyncio.get_running_loop().create_future()
        if self._waiting is not None:
            await self._waiting
        self._send(item)

    def put_blocking(self, item: Any) -> None:
        """Send an item from a thread."""
        with self._has_room:
            self._has_room.wait_for(lambda: self._room > 0 or self.closed)
        self._send(item)

    def _send(self, item: Any) -> None:
        with self._lock:
            self._waiting = None
            self._room -= 1
        with suppress(RuntimeError):  # the reader's loop is gone
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    # The reader's side: its loop.

    def end(self, _: object = None) -> None:
        """After what was sent so far, nothing comes any more."""
        self._items.put_nowait(END)

    def close(self) -> None:
        """The reader has left: the producer need not wait for it."""
        with self._lock:
            self.closed = True
            self._wake()

    async def get(self) -> Any:
        """The next item, or `END`."""
        item = await self._items.get()
        with self._lock:
            self._room += 1
            self._wake()
        return item

    def _wake(self) -> None:
        self._has_room.notify()
        waiting = self._waiting
        if waiting is not None:
            with suppress(RuntimeError):  # the producer's loop is gone
                waiting.get_loop().call_soon_threadsafe(_release, waiting)


def _release(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


async def pump(items: AsyncIterable[Any], channel: Channel) -> None:
    """Send what an async generator yields until the reader leaves, and close it."""
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
    """Send what a plain generator yields until the reader leaves, and close it, all in this one thread."""
    iterator = iter(items)
    try:
        for item in iterator:
            channel.put_blocking(item)
            if channel.closed:
                break
    finally:
        if (close := getattr(iterator, "close", None)) is not None:
            close()
