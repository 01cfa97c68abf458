"""The authors' own event loop, in its own thread.

Hooks and cords run here, so that a handler that blocks (a pipeline call inside `async def`) never stops the
server's loop, and what a startup hook creates (locks, clients, queues) is on the loop that serves it. Plain `def`
handlers run in a pool of threads beside it.
"""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from chutes.chute._loop.channel import END, Channel, pump, pump_blocking
from chutes.chute._loop.mailbox import Mailbox
from chutes.exception import Draining, Fatal


class UserLoop:
    """Runs the author's functions for callers on any other event loop.

    `threads` is how many plain `def` handlers run at once. `on_fatal` is called with the reason, on the caller's loop,
    when one of the functions raises Fatal. It starts by itself at the first call, unless it was stopped.
    """

    def __init__(self, threads: int = 1, on_fatal: Callable[[str], object] = lambda _: None) -> None:
        self.threads = threads
        self._on_fatal = on_fatal
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mailbox: Mailbox | None = None
        self._home: Mailbox | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the thread and its loop; nothing happens if they run."""
        with self._lock:
            if self._thread is not None:
                return
            self._stopped = False
            started = threading.Event()
            self._pool = ThreadPoolExecutor(max(1, self.threads), thread_name_prefix="chute-def")
            self._thread = threading.Thread(
                target=_run_loop, args=(self._serve(started),), name="chute-loop", daemon=True
            )
            self._thread.start()
            started.wait()

    def stop(self) -> None:
        """Cancel what runs, close the loop, and wait for its thread; called from any other thread."""
        with self._lock:
            self._stopped = True
            if self._thread is None or self._loop is None or self._stop is None or self._pool is None:
                return
            self._loop.call_soon_threadsafe(self._stop.set)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._thread.join()
            self._thread = self._loop = self._mailbox = self._stop = self._pool = None

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._mailbox = Mailbox(self._loop)
        self._stop = asyncio.Event()
        started.set()
        await self._stop.wait()

    async def run(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The function's result, from the user loop (coroutine functions) or a thread of the pool (plain ones).

        Context variables are carried across. Cancelling the caller cancels the coroutine and waits until it has
        ended; a plain function that runs already cannot be cancelled, so its end is waited for, because it still
        holds what it holds.
        """
        if is_coroutine_function(func):
            return await self._run_coroutine(func, args, kwargs)
        result = await self._run_in_thread(func, args, kwargs)
        if inspect.isawaitable(result):  # a plain function around an async one
            return await self._run_coroutine(_identity, (result,), {})
        return result

    async def stream(self, items: AsyncIterable[Any] | Iterable[Any]) -> AsyncGenerator[Any, None]:
        """What a sync or async generator yields, produced on the user loop or in one thread of the pool.

        The generator is a few items ahead at most. Closing this iterator closes the generator where it runs.
        """
        channel = Channel(asyncio.get_running_loop())
        run = self._run_coroutine if isinstance(items, AsyncIterable) else self._run_in_thread
        pumping = pump if isinstance(items, AsyncIterable) else pump_blocking
        producer = asyncio.ensure_future(run(pumping, (items, channel), {}))
        producer.add_done_callback(channel.end)
        try:
            while (item := await channel.get()) is not END:
                yield item
            await producer
        finally:
            channel.close()
            producer.cancel()
            await asyncio.wait([producer])
            if producer.done() and not producer.cancelled():
                producer.exception()  # was raised above already, or nobody waits for it any more

    async def _run_coroutine(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        mailbox = self._running()[0]
        call = self._call()
        context = copy_context()
        task: asyncio.Task[Any] | None = None

        def begin() -> None:
            nonlocal task
            if self._stopped:
                call.deliver(None, asyncio.CancelledError())
                return
            task = mailbox.loop.create_task(_contain(func, args, kwargs), context=context)
            task.add_done_callback(call.deliver_future)

        def cancel() -> None:
            if task is not None:
                task.cancel()

        call.cancel = lambda: _post(mailbox, cancel)
        if not _post(mailbox, begin):
            raise Draining
        return await self._outcome(call)

    async def _run_in_thread(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        pool = self._running()[1]
        call = self._call()
        context = copy_context()

        def work() -> Any:
            try:
                return context.run(func, *args, **kwargs)
            except (SystemExit, KeyboardInterrupt, StopIteration) as error:
                raise _contained(error) from error

        try:
            future = pool.submit(work)
        except RuntimeError:  # stopped in this very moment
            raise Draining from None
        call.cancel = future.cancel
        future.add_done_callback(call.deliver_future)
        return await self._outcome(call)

    def _running(self) -> tuple[Mailbox, ThreadPoolExecutor]:
        if self._thread is None and not self._stopped:
            self.start()
        if self._mailbox is None or self._pool is None:
            raise Draining
        return self._mailbox, self._pool

    def _call(self) -> "_Call":
        """A call from the loop that runs here, which gets its outcome through the mailbox of that loop."""
        loop = asyncio.get_running_loop()
        home = self._home
        if home is None or home.loop is not loop:
            home = self._home = Mailbox(loop)
        return _Call(home)

    async def _outcome(self, call: "_Call") -> Any:
        value, error = await call.wait()
        if isinstance(error, asyncio.CancelledError):
            raise Draining if self._stopped else RuntimeError("The handler was cancelled from within")
        if isinstance(error, Fatal):
            self._on_fatal(str(error))
        if error is not None:
            raise error
        return value


class _Call:
    """One caller that waits on its own loop for work that is done elsewhere."""

    def __init__(self, home: Mailbox) -> None:
        self._home = home
        self._settled = home.loop.create_future()
        self._outcome: tuple[Any, BaseException | None] | None = None
        self.cancel: Callable[[], object] = lambda: None

    def deliver(self, value: Any, error: BaseException | None) -> None:
        """Hand the outcome over, from any thread."""
        _post(self._home, lambda: self._settle(value, error))

    def deliver_future(self, future: "asyncio.Task[Any] | ThreadFuture[Any]") -> None:
        """Hand the outcome of a future that is done over."""
        if future.cancelled():
            self.deliver(None, asyncio.CancelledError())
        elif (error := future.exception()) is not None:
            self.deliver(None, error)
        else:
            self.deliver(future.result(), None)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        self._outcome = value, error
        if not self._settled.done():
            self._settled.set_result(None)

    async def wait(self) -> tuple[Any, BaseException | None]:
        """The outcome. A cancelled caller passes that on, and leaves when the work has ended."""
        cancelled: asyncio.CancelledError | None = None
        while self._outcome is None:
            try:
                await self._settled
            except asyncio.CancelledError as error:
                cancelled = error
                self._settled = self._home.loop.create_future()
                self.cancel()
        failure = self._outcome[1]
        if cancelled is not None and (failure is None or isinstance(failure, asyncio.CancelledError)):
            raise cancelled
        return self._outcome  # what it failed with while it was being cancelled, as if it had run right here


def is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine; also for partials and objects with an async `__call__`."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004 - not whether it is callable, but how
    )


async def _contain(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return await func(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt) as error:
        raise _contained(error) from error


def _contained(error: BaseException) -> RuntimeError:
    """`sys.exit()` in a handler ends that handler, not the thread that runs all of them."""
    return RuntimeError(f"{type(error).__name__} in the author's code: {error}")


async def _identity(awaitable: Any) -> Any:
    return await awaitable


def _post(mailbox: Mailbox, callback: Callable[[], object]) -> bool:
    """Have it called soon on that loop; False when the loop is closed."""
    with suppress(RuntimeError):
        mailbox.post(callback)
        return True
    return False


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, on uvloop where there is one."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):  # there is none for Windows
        from uvloop import new_event_loop as factory
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
