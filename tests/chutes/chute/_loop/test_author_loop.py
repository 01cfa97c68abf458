import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar

import pytest

from benchmarks.harness.waiting import LIMIT
from chutes.chute._loop.author_loop import AuthorLoop
from chutes.exception import Draining, Fatal


@pytest.fixture
def loop() -> Iterator[AuthorLoop]:
    loop = AuthorLoop(threads=2)
    yield loop
    loop.stop()


def assert_cancelling_waits(
    loop: AuthorLoop, work: Callable[[], object], started: threading.Event, ended: threading.Event
) -> None:
    """Cancel a function on the author's loop once it has started, and check that this waits until it has ended."""

    async def main() -> None:
        task = asyncio.create_task(loop.run(work))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(main())


def test_async_and_plain_functions_return_and_raise(loop: AuthorLoop) -> None:
    async def double(x: int) -> int:
        return 2 * x

    def half(x: int, *, of: int = 1) -> float:
        return of * x / 2

    async def fail() -> None:
        raise KeyError("k")

    async def main() -> None:
        assert await loop.run(double, 4) == 8
        assert await loop.run(half, 4, of=3) == 6
        assert await loop.run(lambda x: double(x), 5) == 10  # noqa: PLW0108 - a plain function around an async one
        with pytest.raises(KeyError):
            await loop.run(fail)

    asyncio.run(main())


def test_coroutines_share_one_thread_that_is_not_the_callers(loop: AuthorLoop) -> None:
    async def where() -> tuple[int, int]:
        return threading.get_ident(), id(asyncio.get_running_loop())

    async def main() -> None:
        first, second = await loop.run(where), await loop.run(where)
        assert first == second
        assert first[0] != threading.get_ident()

    asyncio.run(main())


def test_a_blocking_coroutine_does_not_block_the_caller(loop: AuthorLoop) -> None:
    began, go_on = threading.Event(), threading.Event()

    async def block() -> bool:
        began.set()
        return go_on.wait(LIMIT)  # blocks its loop on purpose

    async def main() -> bool:
        blocked = asyncio.create_task(loop.run(block))
        await asyncio.to_thread(began.wait)
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert not blocked.done()
        go_on.set()
        return await blocked

    assert asyncio.run(main())


def test_plain_functions_run_in_parallel_up_to_the_number_of_threads(loop: AuthorLoop) -> None:
    together = threading.Barrier(2, timeout=LIMIT)

    async def main() -> None:
        await asyncio.gather(loop.run(together.wait), loop.run(together.wait))

    asyncio.run(main())


def test_context_variables_are_carried_across(loop: AuthorLoop) -> None:
    request = ContextVar("request", default="")

    async def read() -> str:
        return request.get()

    async def stream() -> AsyncIterator[str]:
        yield request.get()

    async def main() -> None:
        request.set("r1")
        assert await loop.run(read) == "r1"
        assert await loop.run(request.get) == "r1"
        assert [item async for item in loop.stream(stream())] == ["r1"]

    asyncio.run(main())


def test_cancelling_waits_until_the_coroutine_has_ended(loop: AuthorLoop) -> None:
    ended = threading.Event()
    started = threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended.set()

    assert_cancelling_waits(loop, work, started, ended)


def test_cancelling_immediately_runs_nothing_twice(loop: AuthorLoop) -> None:
    async def work() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        for _ in range(50):
            task = asyncio.create_task(loop.run(work))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_a_plain_function_is_waited_for_when_cancelled(loop: AuthorLoop) -> None:
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        time.sleep(0.1)
        ended.set()

    assert_cancelling_waits(loop, work, started, ended)


def test_a_cancelled_plain_function_that_waits_for_a_thread_never_starts() -> None:
    loop = AuthorLoop(threads=1)
    go, ran = threading.Event(), threading.Event()

    async def main() -> None:
        first = asyncio.create_task(loop.run(go.wait))
        second = asyncio.create_task(loop.run(ran.set))
        await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        go.set()
        await first
        assert not ran.is_set()

    asyncio.run(main())
    loop.stop()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_exiting_ends_the_handler_and_not_the_loop(loop: AuthorLoop, error: BaseException) -> None:
    async def leave() -> None:
        raise error

    def leave_plainly() -> None:
        raise error

    async def main() -> None:
        for way in (leave, leave_plainly):
            with pytest.raises(RuntimeError, match="The author's code raised"):
                await loop.run(way)
        assert await loop.run(lambda: 1) == 1

    asyncio.run(main())


def test_stop_iteration_is_an_error_and_not_a_hang(loop: AuthorLoop) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(loop.run(next, iter(())), LIMIT)

    asyncio.run(main())


def test_a_coroutine_that_cancels_itself_is_an_error(loop: AuthorLoop) -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(RuntimeError, match="cancelled itself"):
            await loop.run(give_up)

    asyncio.run(main())


def test_stopping_cancels_running_calls_and_refuses_new_ones() -> None:
    loop = AuthorLoop()
    began = threading.Event()

    async def work() -> None:
        began.set()
        await asyncio.sleep(60)

    async def main() -> None:
        running = asyncio.create_task(loop.run(work))
        await asyncio.to_thread(began.wait)
        await asyncio.to_thread(loop.stop)
        with pytest.raises(Draining):
            await running
        with pytest.raises(Draining):
            await loop.run(work)
        with pytest.raises(Draining):
            await loop.run(print)

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "chute-loop"]


def test_it_can_be_started_again() -> None:
    loop = AuthorLoop()
    for _ in range(2):
        loop.start()
        assert asyncio.run(loop.run(lambda: 7)) == 7
        loop.stop()


def test_a_loop_that_cannot_start_raises_its_error(loop: AuthorLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise OSError("Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "Runner", fail)
        with pytest.raises(OSError, match="Too many open files"):
            loop.start()
    assert asyncio.run(loop.run(lambda: 7)) == 7


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_streams_keep_their_order(loop: AuthorLoop, kind: str) -> None:
    async def count() -> AsyncIterator[int]:
        for i in range(100):
            yield i

    async def main() -> list[int]:
        return [item async for item in loop.stream(count() if kind == "async" else iter(range(100)))]

    assert asyncio.run(main()) == list(range(100))


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_a_stream_is_bounded_and_closed_when_its_reader_stops(loop: AuthorLoop, kind: str) -> None:
    made: list[int] = []
    threads: set[int] = set()
    closed = threading.Event()

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                made.append(len(made))
                yield len(made)
        finally:
            closed.set()

    def endless_plainly() -> Iterator[int]:
        try:
            while True:
                threads.add(threading.get_ident())
                made.append(len(made))
                yield len(made)
        finally:
            threads.add(threading.get_ident())
            closed.set()

    async def main() -> None:
        stream = loop.stream(endless() if kind == "async" else endless_plainly())
        for _ in range(20):
            await anext(stream)
        await asyncio.sleep(0.05)
        assert len(made) <= 20 + 10
        await stream.aclose()
        assert closed.is_set()

    asyncio.run(main())
    assert len(threads) <= 1  # a plain generator stays in its thread


def test_cancelling_a_reader_closes_the_generator(loop: AuthorLoop) -> None:
    closed, waiting = threading.Event(), threading.Event()

    async def slow() -> AsyncIterator[int]:
        try:
            yield 1
            waiting.set()
            await asyncio.sleep(60)
            yield 2
        finally:
            closed.set()

    async def read() -> None:
        async for _ in loop.stream(slow()):
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.to_thread(waiting.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed.is_set()

    asyncio.run(main())


def test_an_error_in_a_stream_follows_the_sent_items(loop: AuthorLoop) -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("three")

    got: list[int] = []

    async def main() -> None:
        async for item in loop.stream(failing()):
            got.append(item)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ValueError, match="three"):
        asyncio.run(main())
    assert got == [1, 2]


def test_fatal_is_reported_wherever_it_is_raised() -> None:
    reasons: list[str] = []
    loop = AuthorLoop(1, reasons.append)

    async def fail(how: str) -> None:
        raise Fatal(how)

    def fail_plainly(how: str) -> None:
        raise Fatal(how)

    async def stream() -> AsyncIterator[int]:
        yield 1
        raise Fatal("stream")

    async def main() -> None:
        for func in (fail, fail_plainly):
            with pytest.raises(Fatal):
                await loop.run(func, func.__name__)
        with pytest.raises(Fatal):
            assert [item async for item in loop.stream(stream())]

    asyncio.run(main())
    loop.stop()
    assert reasons == ["fail", "fail_plainly", "stream"]
