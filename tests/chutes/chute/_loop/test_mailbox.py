import asyncio
import threading

import pytest

from benchmarks.harness.waiting import LIMIT
from chutes.chute._loop.mailbox import Mailbox


def test_callbacks_run_once_and_in_order() -> None:
    done: list[tuple[int, int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        mailbox, all_done = Mailbox(loop), asyncio.Event()

        def post_many(sender: int) -> None:
            for number in range(1000):
                mailbox.post(lambda number=number: done.append((sender, number)))
            mailbox.post(lambda: all_done.set() if len(done) == 4000 else None)

        senders = [threading.Thread(target=post_many, args=(sender,)) for sender in range(4)]
        for sender in senders:
            sender.start()
        async with asyncio.timeout(LIMIT):
            await all_done.wait()
        for sender in senders:
            sender.join()

    asyncio.run(main())
    for sender in range(4):
        assert [number for who, number in done if who == sender] == list(range(1000))


def test_many_callbacks_wake_the_loop_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        mailbox, woken, seen = Mailbox(loop), [], []
        real = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda callback: (woken.append(1), real(callback))[1]  # type: ignore[method-assign]
        for number in range(100):
            mailbox.post(lambda number=number: seen.append(number))
        await asyncio.sleep(0.01)
        assert (len(woken), len(seen)) == (1, 100)
        mailbox.post(lambda: mailbox.post(lambda: seen.append(-1)))  # a callback that posts another
        await asyncio.sleep(0.01)
        assert seen[-1] == -1

    asyncio.run(main())


def test_posting_to_a_closed_loop_always_raises() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    mailbox = Mailbox(loop)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            mailbox.post(lambda: None)
