import asyncio
import time

import pytest

from chutes.exception import Draining, QueueFull
from chutes.server.admission import Admission

pytestmark = pytest.mark.anyio


async def test_requests_beyond_the_slots_and_the_queue_are_rejected() -> None:
    admission = Admission(concurrency=2, queue_size=3)
    waiters = [admission.enqueue() for _ in range(5)]
    assert [turn.done() for turn in waiters] == [True, True, False, False, False]
    assert (admission.running, admission.queued) == (2, 3)
    with pytest.raises(QueueFull) as refused:
        admission.enqueue()
    assert int(refused.value.headers["Retry-After"]) >= 1


async def test_the_queue_is_first_in_first_out() -> None:
    admission = Admission(concurrency=1, queue_size=3)
    waiters = [admission.enqueue() for _ in range(4)]
    for served in range(1, 4):
        admission.release(time.monotonic())
        assert [turn.done() for turn in waiters] == [index <= served for index in range(4)]
        assert admission.running == 1
    admission.release(time.monotonic())
    assert admission.running == 0


async def test_a_withdrawn_waiter_gets_no_slot() -> None:
    admission = Admission(concurrency=1, queue_size=2)
    admission.enqueue()
    withdrawn, next_waiter = admission.enqueue(), admission.enqueue()
    admission.withdraw(withdrawn)
    assert admission.queued == 1
    admission.release(time.monotonic())
    assert next_waiter.done()
    assert (admission.running, admission.queued) == (1, 0)


async def test_withdrawing_a_waiter_that_has_a_slot_passes_it_on() -> None:
    admission = Admission(concurrency=1, queue_size=2)
    admission.enqueue()
    late, other = admission.enqueue(), admission.enqueue()
    admission.release(time.monotonic())
    admission.withdraw(late)  # it already has the slot
    assert other.done()
    assert (admission.running, admission.queued) == (1, 0)
    admission.release(time.monotonic())
    assert admission.running == 0


async def test_a_new_request_does_not_overtake_the_queue() -> None:
    admission = Admission(concurrency=1, queue_size=2)
    admission.acquire()
    waiting = admission.enqueue()
    assert not admission.acquire()
    admission.release(time.monotonic())
    assert waiting.done()
    assert not admission.acquire()


async def test_a_queue_size_of_zero_rejects_at_once() -> None:
    admission = Admission(concurrency=1, queue_size=0)
    assert admission.enqueue().done()
    with pytest.raises(QueueFull):
        admission.enqueue()


async def test_retry_after_follows_the_average_duration() -> None:
    admission = Admission(concurrency=1, queue_size=10)
    assert admission.retry_after == 1
    admission.enqueue()
    admission.release(time.monotonic() - 10)
    admission.enqueue()
    admission.enqueue()
    assert admission.retry_after == pytest.approx(20, abs=1)
    for _ in range(9):
        admission.enqueue()
    assert admission.retry_after <= 120


async def test_closing_rejects_the_queue_and_keeps_running_work() -> None:
    admission = Admission(concurrency=1, queue_size=2)
    admission.enqueue()
    waiting = admission.enqueue()
    admission.close()
    with pytest.raises(Draining):
        waiting.result()
    with pytest.raises(Draining):
        admission.enqueue()
    idle = asyncio.create_task(admission.wait_idle())
    await asyncio.sleep(0)
    assert not idle.done()
    admission.release(time.monotonic())
    await idle
    await admission.wait_idle()
