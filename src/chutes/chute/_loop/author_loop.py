"""The author's event loop, in its own thread, and a pool of threads for plain functions.

An `async def` handler that blocks, for example in a pipeline call, does not block the server's event loop. Startup
hooks run on the same loop as the handlers, so that both can use the same locks, clients and queues.
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


class AuthorLoop:
    """An event loop that runs the author's functions for callers on any other event loop.

    The loop starts at the first call. After `stop`, calls raise Draining until `allow_restart` or `start`.

    Args:
        threads: The number of plain functions that run at once.
        on_fatal: Called with the reason, on the caller's loop, when a function raises Fatal.
    """

    def __init__(self, threads: int = 1, on_fatal: Callable[[str], object] = lambda _: None) -> None:
        self.threads = threads
        self._on_fatal = on_fatal
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mailbox: Mailbox | None = None
        self._caller_mailbox: Mailbox | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the thread and its loop, unless they run already. Raise the error of a loop that cannot start."""
        with self._lock:
            if self._thread is not None:
                return
            self._stopped = False
            started: ThreadFuture[None] = ThreadFuture()
            thread = threading.Thread(target=self._run_thread, args=(started,), name="chute-loop", daemon=True)
            thread.start()
            started.result()
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="chute-def")
            self._thread = thread

    def stop(self) -> None:
        """Cancel all coroutines, close the loop, and wait for its thread. Call this from another thread."""
        with self._lock:
            self._stopped = True
            if self._thread is None or self._loop is None or self._stop is None or self._pool is None:
                return
            self._loop.call_soon_threadsafe(self._stop.set)
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._thread.join()
            self._thread = self._loop = self._mailbox = self._stop = self._pool = None

    def allow_restart(self) -> None:
        """Let the next call start a stopped loop again. Without this, calls after `stop` raise Draining."""
        with self._lock:
            self._stopped = False

    def _run_thread(self, started: ThreadFuture[None]) -> None:
        try:
            _run_loop(lambda: self._serve(started))
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    async def _serve(self, started: ThreadFuture[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._mailbox = Mailbox(self._loop)
        self._stop = asyncio.Event()
        started.set_result(None)
        await self._stop.wait()

    async def run(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a coroutine function on the loop, or a plain one in a thread of the pool, and return its result.

        The function gets a copy of the caller's context variables. Cancelling the caller cancels the coroutine and
        waits until it has ended. A plain function that has started cannot be cancelled, so the caller waits for it.

        Raises:
            Draining: The loop was stopped.
        """
        if _is_coroutine_function(func):
            return await self._run_coroutine(func, args, kwargs)
        result = await self._run_in_thread(func, args, kwargs)
        if inspect.isawaitable(result):  # a plain function that returns a coroutine
            return await self._run_coroutine(_await, (result,), {})
        return result

    async def stream(self, items: AsyncIterable[Any] | Iterable[Any]) -> AsyncGenerator[Any, None]:
        """Run an async generator on the loop, or a plain one in a thread of the pool, and yield its items.

        The generator runs at most a few items ahead of the reader. Closing this iterator closes the generator, on the
        loop or thread where it runs.
        """
        channel = Channel(asyncio.get_running_loop())
        run = self._run_coroutine if isinstance(items, AsyncIterable) else self._run_in_thread
        pump_items = pump if isinstance(items, AsyncIterable) else pump_blocking
        producer = asyncio.ensure_future(run(pump_items, (items, channel), {}))
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
                producer.exception()  # mark the error as retrieved, because asyncio logs one that is not

    async def _run_coroutine(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        mailbox, _ = self._ensure_running()
        call = self._new_call()
        context = copy_context()
        task: asyncio.Task[Any] | None = None

        def begin() -> None:
            nonlocal task
            if self._stopped:
                call.deliver(None, asyncio.CancelledError())
                return
            task = mailbox.loop.create_task(_run_contained(func, args, kwargs), context=context)
            task.add_done_callback(call.deliver_future)

        def cancel() -> None:
            if task is not None:
                task.cancel()

        call.cancel = lambda: _post(mailbox, cancel)
        if not _post(mailbox, begin):
            raise Draining
        return await self._wait(call)

    async def _run_in_thread(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        _, pool = self._ensure_running()
        call = self._new_call()
        context = copy_context()

        def work() -> Any:
            try:
                return context.run(func, *args, **kwargs)
            except (SystemExit, KeyboardInterrupt, StopIteration) as error:
                raise _as_runtime_error(error) from error

        try:
            future = pool.submit(work)
        except RuntimeError:  # the pool was stopped in the meantime
            raise Draining from None
        call.cancel = future.cancel
        future.add_done_callback(call.deliver_future)
        return await self._wait(call)

    def _ensure_running(self) -> tuple[Mailbox, ThreadPoolExecutor]:
        """Start the loop unless it was stopped, and return its mailbox and pool. Raise Draining if it was stopped."""
        if self._thread is None and not self._stopped:
            self.start()
        if self._mailbox is None or self._pool is None:
            raise Draining
        return self._mailbox, self._pool

    def _new_call(self) -> "_Call":
        """Create a call for the running event loop, which gets the outcome through its mailbox."""
        loop = asyncio.get_running_loop()
        mailbox = self._caller_mailbox
        if mailbox is None or mailbox.loop is not loop:
            mailbox = self._caller_mailbox = Mailbox(loop)
        return _Call(mailbox)

    async def _wait(self, call: "_Call") -> Any:
        value, error = await call.wait()
        if isinstance(error, asyncio.CancelledError):
            raise Draining if self._stopped else RuntimeError("The handler cancelled itself.")
        if isinstance(error, Fatal):
            self._on_fatal(str(error))
        if error is not None:
            raise error
        return value


class _Call:
    """A call of the author's code, whose caller waits for the outcome on another event loop."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._settled = mailbox.loop.create_future()
        self._outcome: tuple[Any, BaseException | None] | None = None
        self.cancel: Callable[[], object] = lambda: None

    def deliver(self, value: Any, error: BaseException | None) -> None:
        """Deliver the outcome, from any thread."""
        _post(self._mailbox, lambda: self._settle(value, error))

    def deliver_future(self, future: "asyncio.Task[Any] | ThreadFuture[Any]") -> None:
        """Deliver the outcome of a future that is done."""
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
        """Wait for the outcome. If the caller is cancelled, cancel the work and wait for its end."""
        cancelled: asyncio.CancelledError | None = None
        while self._outcome is None:
            try:
                await self._settled
            except asyncio.CancelledError as error:
                cancelled = error
                self._settled = self._mailbox.loop.create_future()
                self.cancel()
        failure = self._outcome[1]
        if cancelled is not None and (failure is None or isinstance(failure, asyncio.CancelledError)):
            raise cancelled
        return self._outcome  # includes an error raised during cancellation, as for a coroutine on this loop


def _is_coroutine_function(func: Callable[..., Any]) -> bool:
    """Return whether a call of an object returns a coroutine, including partials and objects with async `__call__`."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004 - `callable` does not distinguish async functions
    )


async def _run_contained(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return await func(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt) as error:
        raise _as_runtime_error(error) from error


def _as_runtime_error(error: BaseException) -> RuntimeError:
    """Return an error to raise instead of SystemExit, which would end the thread that all handlers share."""
    return RuntimeError(f"The author's code raised {type(error).__name__}: {error}.")


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _post(mailbox: Mailbox, callback: Callable[[], object]) -> bool:
    """Post a callback. Return False if the loop is closed."""
    with suppress(RuntimeError):
        mailbox.post(callback)
        return True
    return False


def _run_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function as `asyncio.run` runs a coroutine, on uvloop if it is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):  # uvloop does not support Windows
        from uvloop import new_event_loop as factory
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
