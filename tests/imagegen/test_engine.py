"""The engine's queue: one request at a time in order, cancelled within a step, without effect on the next."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from prometheus_client import REGISTRY

from benchmarks.harness.waiting import LIMIT
from imagegen.engine import Engine
from imagegen.errors import EngineStopped, ImagegenError, InputError, Unsupported
from imagegen.http.responses import picture_headers
from imagegen.picture import Picture
from imagegen.request import Request


def ask(seed: int | None = 1, steps: int = 4, **fields: object) -> Request:
    return Request("a red apple", seed=seed, steps=steps, **fields)


def ask_long(prompt: str) -> Request:
    return Request(prompt, seed=1, steps=1)


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"imagegen_{name}", labels) or 0.0


def engine_threads() -> int:
    return sum(thread.name == "imagegen-engine" for thread in threading.enumerate())


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "did not happen"
        await asyncio.sleep(0.002)


class Gate:
    """An `on_step` that blocks the engine's thread after step `at` until `go` is set."""

    def __init__(self, at: int = 1) -> None:
        self.at, self.seen = at, []
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, done: int, total: int) -> None:
        self.seen.append(done)
        if done == self.at:
            self.reached.set()
            assert self.go.wait(LIMIT)


def fault(monkeypatch: pytest.MonkeyPatch, engine: Engine, error: Exception, *, at: int, times: int = 1) -> None:
    """Make the transformer raise `times` times, from its `at`-th call on."""
    transformer = engine.model.pipeline.transformer
    forward, calls = transformer.forward, [0]

    def failing(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if at <= calls[0] < at + times:
            raise error
        return forward(*args, **kwargs)

    monkeypatch.setattr(transformer, "forward", failing)


def test_an_image_and_its_metadata(engine: Engine) -> None:
    picture = asyncio.run(engine.generate(ask(seed=7, width=200, height=333)))
    assert (picture.image.mode, picture.image.size) == ("RGB", (200, 333))
    assert (picture.seed, picture.origin, picture.precision, picture.generated_size) == (7, "folder", "fp32", (80, 128))
    assert (picture.metadata["num_inference_steps"], picture.metadata["model"]) == (4, "tiny-random")
    assert picture.metadata["prompt"] == "a red apple"
    assert (picture.metadata["width"], picture.metadata["height"]) == (200, 333)


def test_each_step_is_reported(engine: Engine) -> None:
    seen = []
    asyncio.run(engine.generate(ask(steps=3), on_step=lambda *step: seen.append(step)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_random_seed_repeats_the_image(engine: Engine) -> None:
    first = asyncio.run(engine.generate(ask(seed=None)))
    again = asyncio.run(engine.generate(ask(seed=first.seed)))
    other = asyncio.run(engine.generate(ask(seed=None)))
    assert again.encode() == first.encode()
    assert other.seed != first.seed
    assert other.encode() != first.encode()


def test_same_request_and_seed_same_bytes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, queued among others, after a cancel, after an error."""
    alone = asyncio.run(engine.generate(ask(steps=10))).encode()

    async def queued() -> list[Picture]:
        return await asyncio.gather(*(engine.generate(ask(seed=seed, steps=10)) for seed in (5, 1, 9, 1)))

    assert [picture.encode() == alone for picture in asyncio.run(queued())] == [False, True, False, True]

    async def cancelled() -> None:
        gate = Gate(at=2)
        task = asyncio.create_task(engine.generate(ask(seed=3, steps=10), on_step=gate))
        await until(gate.reached.is_set)
        task.cancel()
        gate.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert asyncio.run(engine.generate(ask(steps=10))).encode() == alone

    with monkeypatch.context() as patch:
        fault(patch, engine, ValueError("at /secret/path"), at=3)
        with pytest.raises(ImagegenError, match=r"^Generation failed\.$"):
            asyncio.run(engine.generate(ask(steps=10)))
    assert asyncio.run(engine.generate(ask(steps=10))).encode() == alone


def test_first_come_first_served(engine: Engine) -> None:
    async def run() -> list[int]:
        order: list[int] = []
        gate = Gate()
        first = asyncio.create_task(engine.generate(ask(), on_step=gate))
        await until(gate.reached.is_set)
        before = count("queue")
        rest = []
        for seed in range(5):
            rest.append(asyncio.create_task(engine.generate(ask(seed), on_step=lambda i, n, s=seed: order.append(s))))
            await asyncio.sleep(0)
        assert count("queue") == before + 5
        gate.go.set()
        await asyncio.gather(first, *rest)
        assert count("queue") == 0
        return order

    assert asyncio.run(run()) == [seed for seed in range(5) for _ in range(4)]


def test_cancelled_within_one_step(engine: Engine) -> None:
    async def run() -> float:
        gate = Gate(at=3)
        task = asyncio.create_task(engine.generate(ask(steps=30), on_step=gate))
        await until(gate.reached.is_set)
        before = count("steps_total")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.go.set()
        await until(lambda: count("busy") == 0)
        assert gate.seen == [1, 2, 3]
        return count("steps_total") - before

    cancelled = count("cancelled_total")
    more = asyncio.run(run())
    print(f"steps after the cancel: {more:.0f}")
    assert more <= 1
    assert count("cancelled_total") == cancelled + 1


def test_a_request_cancelled_in_the_queue_is_never_run(engine: Engine) -> None:
    async def run() -> None:
        gate, seen = Gate(), []
        first = asyncio.create_task(engine.generate(ask(), on_step=gate))
        await until(gate.reached.is_set)
        second = asyncio.create_task(engine.generate(ask(), on_step=lambda *step: seen.append(step)))
        await until(lambda: count("queue") == 1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert count("queue") == 0
        gate.go.set()
        await first
        await engine.generate(ask())
        assert seen == []

    asyncio.run(run())


def test_two_hundred_cancels_leave_nothing_behind(engine: Engine) -> None:
    """Cancelled at a random moment: queued, at any step, while finishing."""
    before = engine_threads()

    async def run() -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(200):
            task = asyncio.create_task(engine.generate(ask(steps=3, width=128, height=128)))
            await asyncio.sleep(float(torch.rand((), generator=generator)) * 0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await until(lambda: count("busy") == 0 and count("queue") == 0)
        await engine.generate(ask())

    asyncio.run(run())
    assert engine_threads() == before
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_it_can_be_awaited_on_several_loops(engine: Engine) -> None:
    pictures: list[Picture] = []
    threads = [threading.Thread(target=lambda: pictures.append(asyncio.run(engine.generate(ask())))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({picture.encode() for picture in pictures}) == 1
    assert len(pictures) == 3


def test_stop_ends_within_a_step_and_fails_waiting_requests(model: Any) -> None:
    engine = Engine(model)

    async def run() -> None:
        gate = Gate()
        with pytest.raises(EngineStopped):
            await engine.generate(ask())
        engine.start()
        tasks = [asyncio.create_task(engine.generate(ask(steps=30), on_step=gate)) for _ in range(2)]
        await until(gate.reached.is_set)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        await until(engine._stopping.is_set)
        gate.go.set()
        await stopping
        assert [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [EngineStopped] * 2
        assert gate.seen == [1]

    asyncio.run(run())
    assert not engine._thread.is_alive()


def test_nothing_is_queued_after_stop(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(model)
    engine.start()
    check, stops = engine._check_running, []

    def stopped_in_between() -> None:
        check()
        if not stops:
            stops.append(threading.Thread(target=engine.stop))
            stops[0].start()
            time.sleep(0.2)

    monkeypatch.setattr(engine, "_check_running", stopped_in_between)
    with pytest.raises(EngineStopped):
        asyncio.run(asyncio.wait_for(engine.generate(ask()), LIMIT))
    stops[0].join()


def test_an_unsupported_task_is_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(engine.model.pipelines, "img2img")
    from tests.imagegen.test_sampling import img2img

    with pytest.raises(Unsupported, match="tiny-random does not support img2img"):
        asyncio.run(engine.generate(img2img()))


def test_busy_seconds_are_counted(engine: Engine) -> None:
    seconds, images = count("busy_seconds_total"), count("images_total", task="text2image")
    began = time.perf_counter()
    asyncio.run(engine.generate(ask(steps=10)))
    elapsed = time.perf_counter() - began
    assert 0 < count("busy_seconds_total") - seconds <= elapsed
    assert count("images_total", task="text2image") == images + 1


def test_a_prompt_that_is_too_long_is_told(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    limit = engine.profile.tokens
    fits = asyncio.run(engine.generate(ask_long("cat " * (limit - 1))))  # and one token for its end
    assert "unread_tokens" not in fits.metadata
    assert "X-Unread-Tokens" not in picture_headers(fits)
    picture = asyncio.run(engine.generate(ask_long("cat " * (limit + 4))))
    assert picture.metadata["unread_tokens"] == 5
    assert picture_headers(picture)["X-Unread-Tokens"] == "5"
    assert f"5 tokens longer than the {limit} that tiny-random reads" in caplog.text
    assert asyncio.run(engine.generate(ask_long("cat " * (limit + 9)))).image == picture.image  # it is not read


def test_images_beyond_those_that_the_model_combines(start: Callable[..., Engine]) -> None:
    photo = Image.new("RGB", (128, 128))
    with pytest.raises(InputError, match=r"^references must have at most 0 images for tiny-random; got 1\.") as error:
        asyncio.run(start().generate(ask(image=photo, references=(photo,))))
    assert error.value.field == "references"
