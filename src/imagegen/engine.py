"""The one owner of the GPU: requests in, pictures out, one at a time, first come first served.

A thread of its own runs the pipelines. Whoever awaits a picture may do so on any event loop; cancelling that
stops the thread within one denoising step. Decoding, scaling and compositing happen in other threads.
"""

import asyncio
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from imagegen import SOFTWARE, metrics
from imagegen.canvas import Canvas, cover, fit_canvas, size_like
from imagegen.cuda_errors import free_memory, is_fatal, is_out_of_memory
from imagegen.errors import (
    EngineFailed,
    EngineStopped,
    ImagegenError,
    LoadError,
    NotFinite,
    OutOfMemory,
    Unsupported,
)
from imagegen.http import base64_images
from imagegen.http.schemas import BatchGenerationInput, GenerationInput, Img2ImgInput, InpaintInput
from imagegen.models import Model
from imagegen.picture import Picture
from imagegen.sampling import Order, draw, finish
from imagegen.watchdog import Watchdog

log = logging.getLogger(__name__)

_WARM_UP = GenerationInput(prompt="warm-up", num_inference_steps=2, seed=0)
_MOST_OUT_OF_MEMORY = 3  # requests in a row, before the caches are freed

OnStep = Callable[[int, int], None]
"""Called on the engine's thread after each step, with the steps done and their number."""


class _CancelledError(Exception):
    """Whoever asked for the picture has left."""


class _Drawn(NamedTuple):
    """What the thread hands back: pixels at the size drawn, and how it came to them."""

    image: Image.Image
    where: Canvas
    steps: int
    fallback: str | None


@dataclass
class _Job:
    """An order on its way through the queue."""

    order: Order
    on_step: OnStep | None = None
    warm_up: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    result: Future[_Drawn] = field(default_factory=Future)


class Engine:
    """Draws with a `Model`, which nothing else may use meanwhile.

    `oom_fallback`: draw again at half the size and half the steps when memory runs out. `on_failure` is
    called once, with the reason, from any thread, when only a new process can help: the GPU is poisoned, it hangs
    (see `Watchdog` for `hang_after` and `patience`, in seconds), or its memory stays full.
    """

    def __init__(
        self,
        model: Model,
        *,
        oom_fallback: bool = True,
        on_failure: Callable[[str], object] = lambda reason: None,
        hang_after: float = 60,
        patience: float = 120,
    ) -> None:
        self.model = model
        self.failure: str | None = None
        self._oom_fallback = oom_fallback
        self._on_failure = on_failure
        self._patience = patience
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="imagegen-engine", daemon=True)
        self._watchdog = Watchdog(
            self._fail,
            hang_after=hang_after,
            patience=patience,
            exempt=lambda: model.fast_path is not None and model.fast_path.capturing,
        )
        self._out_of_memory = 0  # requests in a row
        self._stopping = threading.Event()
        self._door = threading.Lock()  # nothing is queued behind the end

    def start(self) -> None:
        """Start the thread, and its watchdog."""
        self._thread.start()
        self._watchdog.start()

    def stop(self) -> None:
        """Stop within one step; pictures that wait or are being drawn get `EngineStopped`."""
        with self._door:
            self._stopping.set()
            self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(self._patience)
        self._watchdog.stop()

    async def warm_up(self) -> None:
        """Draw a picture, so that the first request is fast. Raises LoadError if the model draws none."""
        try:
            await self._submit(_warm_up_job())
        except NotFinite as error:
            precision = self.model.info.get("precision")
            raise LoadError(
                f"{self.model.name} cannot be used in {precision}: {error} "
                "Check its weights, or choose another IMAGEGEN_PRECISION."
            ) from error
        except ImagegenError as error:
            raise LoadError(f"{self.model.name} cannot draw its warm-up picture: {error}") from error

    async def generate(self, params: GenerationInput, *, on_step: OnStep | None = None) -> Picture:
        """Text to image. Raises Unsupported, OutOfMemory, EngineStopped, EngineFailed; so do the others."""
        order = Order("text2image", params, (params.width, params.height), _seed(params))
        return await self._picture(order, on_step)

    async def batch(self, params: BatchGenerationInput, *, on_step: OnStep | None = None) -> list[Picture]:
        """Several prompts, one after another, so that each is what its prompt and seed draw alone."""
        first = _seed(params)
        shared = params.model_dump(exclude={"prompts", "seed"})
        return [
            await self.generate(
                GenerationInput.model_construct(prompt=prompt, seed=(first + i) % 2**32, **shared),
                on_step=on_step,
            )
            for i, prompt in enumerate(params.prompts)
        ]

    async def img2img(self, params: Img2ImgInput, *, on_step: OnStep | None = None) -> Picture:
        """Image to image, at the image's size unless another is asked for. Raises InputError, ImageTooLarge as well."""
        image = await asyncio.to_thread(base64_images.decode_image, params.image_b64, field="image_b64")
        size = size_like(image.size, params.width, params.height)
        image = await asyncio.to_thread(cover, image, size)
        return await self._picture(Order("img2img", params, size, _seed(params), image), on_step)

    async def inpaint(self, params: InpaintInput, *, on_step: OnStep | None = None) -> Picture:
        """Repaint what is white in the mask; what is black comes back bit for bit. Raises as `img2img` does."""
        image = await asyncio.to_thread(base64_images.decode_image, params.image_b64, field="image_b64")
        mask = await asyncio.to_thread(base64_images.decode_mask, params.mask_b64, size=image.size, field="mask_b64")
        order = Order("inpaint", params, image.size, _seed(params), image, mask)
        return await self._picture(order, on_step)

    async def _picture(self, order: Order, on_step: OnStep | None) -> Picture:
        """Have an order drawn, and finish it off the engine's thread."""
        if getattr(self.model, order.task) is None:
            raise Unsupported(f"{self.model.name} has no {order.task}")
        drawn = await self._submit(_Job(order, on_step))
        image = await asyncio.to_thread(finish, drawn.image, drawn.where, order)
        asked = order.params.model_dump(exclude={"image_b64", "mask_b64", "format"}, exclude_none=True)
        metrics.images.labels(order.task).inc()
        return Picture(
            image,
            metadata={
                **asked,
                "width": image.width,
                "height": image.height,
                "num_inference_steps": drawn.steps,
                "seed": order.seed,
                "model": self.model.name,
                "software": SOFTWARE,
            },
            drawn=drawn.where.size,
            origin=str(self.model.info["origin"]),
            precision=str(self.model.info["precision"]),
            fallback=drawn.fallback,
        )

    async def _submit(self, job: _Job) -> _Drawn:
        """Queue a job and await it; leaving takes it out of the queue, or stops it."""
        with self._door:
            self._check()
            metrics.queue.inc()
            self._jobs.put(job)
        try:
            return await asyncio.wrap_future(job.result)
        except asyncio.CancelledError:
            metrics.cancelled.inc()
            if job.result.cancel():
                metrics.queue.dec()
            else:
                job.cancelled.set()
            raise

    def _check(self) -> None:
        """Raise unless pictures can be drawn."""
        if self.failure:
            raise EngineFailed("the GPU has failed; the server is about to start again")
        if self._stopping.is_set() or not self._thread.is_alive():
            raise EngineStopped("nothing can be drawn now: the server is starting or stopping")

    def _fail(self, reason: str) -> None:
        with self._door:
            if self.failure is not None:
                return
            self.failure = reason
        log.critical("engine failed: %s", reason)
        self._on_failure(reason)

    def _run(self) -> None:
        """Draw one job after the other until told to stop."""
        with metrics.threads.track_inprogress():
            while (job := self._jobs.get()) is not None:
                if job.result.set_running_or_notify_cancel():
                    metrics.queue.dec()
                    self._serve(job)
                del job  # or its images would live until the next one
                if self._out_of_memory >= _MOST_OUT_OF_MEMORY:
                    self._recover()

    def _serve(self, job: _Job) -> None:
        """Draw a job for who asked for it, whatever becomes of it."""
        began = time.perf_counter()
        try:
            with metrics.busy.track_inprogress():
                job.result.set_result(self._draw(job))
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to who asked for the picture
            job.result.set_exception(self._explain(error, job))
        finally:
            self._watchdog.abort()
            metrics.busy_seconds.inc(time.perf_counter() - began)

    def _recover(self) -> None:
        """Free all caches, and draw the warm-up picture; the engine has failed if it cannot be drawn."""
        self._out_of_memory = 0
        log.warning("Out of memory %d times in a row: freeing the caches", _MOST_OUT_OF_MEMORY)
        job = _warm_up_job()
        try:
            if self.model.fast_path:
                self.model.fast_path.free_caches()
            free_memory()
        except Exception as error:  # noqa: BLE001 - the GPU may be lost by now
            job.result.set_exception(error)
        else:
            self._serve(job)
        failure = job.result.exception()
        if failure is None:
            log.info("The warm-up picture was drawn after the caches were freed")
        elif not isinstance(failure, EngineStopped):
            self._fail(f"Out of memory {_MOST_OUT_OF_MEMORY} times in a row, and the warm-up picture failed: {failure}")

    def _explain(self, error: Exception, job: _Job) -> Exception:
        """Turn what a pipeline raised into what a client may see; log it, unless it was asked for."""
        if isinstance(error, NotFinite) and not job.warm_up:  # the caller reports that of a warm-up
            metrics.errors.inc()
            name, precision = self.model.name, self.model.info.get("precision")
            order = job.order
            log.error("%s (%s in %s, %s, seed %d)", error, name, precision, order.task, order.seed)
        if isinstance(error, _CancelledError | ImagegenError):
            return error
        metrics.errors.inc()
        log.error("generation failed", exc_info=error)
        if is_fatal(error):
            self._fail(f"{type(error).__name__} on the GPU")
            return EngineFailed("the GPU has failed; the server is about to start again")
        return ImagegenError("generation failed")

    def _draw(self, job: _Job) -> _Drawn:
        """Draw a job; where memory runs out, once more at half the size and half the steps."""
        self._check()
        steps = job.order.params.num_inference_steps
        drawn = self._attempt(job, steps=steps)
        if drawn is None and self._oom_fallback:
            log.warning("out of memory: drawing again at half the size and half the steps")
            drawn = self._attempt(job, steps=max(1, steps // 2), shrink=0.5, fallback="out-of-memory")
        if drawn is None:
            self._out_of_memory += 1
            raise OutOfMemory("the picture does not fit into the GPU's memory; ask for a smaller one")
        self._out_of_memory = 0
        return drawn

    def _attempt(self, job: _Job, *, steps: int, shrink: float = 1.0, fallback: str | None = None) -> _Drawn | None:
        """Draw a job once; None where memory ran out, with everything freed that the attempt held."""
        where = fit_canvas(job.order.size, self.model.sizes, shrink=shrink)

        def after_step(done: int, total: int) -> None:
            self._begin(job, where, "step" if done < total else "decode")
            metrics.steps.inc()
            self._check()
            if job.cancelled.is_set():
                raise _CancelledError
            if job.on_step:
                job.on_step(done, total)

        self._begin(job, where, "prepare")  # and the first step
        try:
            image = draw(self.model, job.order, where, steps=steps, after_step=after_step)
            self._watchdog.complete()
            return _Drawn(image, where, steps, fallback)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            metrics.out_of_memory.inc()
        # Only here, with the exception gone, do the tensors that its traceback held go too.
        free_memory()
        return None

    def _begin(self, job: _Job, where: Canvas, phase: str) -> None:
        """Tell the watchdog what comes next, and what it has in common with other work that takes as long."""
        guided = bool(job.order.params.negative_prompt)  # a second forward pass per step
        moving = self.model.plan in {"offload", "stream"}  # weights, as fast as the machine's other work lets them
        self._watchdog.begin(None if moving else (job.order.task, where.size, guided, phase), job.cancelled)


def _warm_up_job() -> _Job:
    size = _WARM_UP.width, _WARM_UP.height
    return _Job(Order("text2image", _WARM_UP, size, _seed(_WARM_UP)), warm_up=True)


def _seed(params: Any) -> int:
    return secrets.randbelow(2**32) if params.seed is None else int(params.seed)
