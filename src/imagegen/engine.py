"""The engine: one thread that owns the GPU and generates one image at a time, in the order of the requests.

`Engine.generate` may be awaited on any event loop. Cancelling it stops the generation within one denoising step.
Images are scaled and composited on other threads.
"""

import asyncio
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from PIL import Image

from imagegen import metrics, schedulers
from imagegen.canvas import Canvas, cover, fit_canvas, limit_area
from imagegen.cuda_errors import free_memory, is_fatal, is_out_of_memory
from imagegen.defaults import apply_defaults
from imagegen.errors import (
    EngineFailed,
    EngineStopped,
    ImagegenError,
    InputError,
    LoadError,
    NotFinite,
    OutOfMemory,
    Unsupported,
    client_reason,
)
from imagegen.limits import MAX_SEED
from imagegen.models import Model
from imagegen.picture import Picture, request_metadata
from imagegen.profile import Profile
from imagegen.request import Request, Task
from imagegen.sampling import AfterStep, finish, sample
from imagegen.watchdog import Watchdog

log = logging.getLogger(__name__)

_WARM_UP_STEPS = 2
_REFERENCE_AREA = 1024**2  # pixels; models read a reference at about this size
_MAX_OUT_OF_MEMORY = 3  # requests in a row that run out of memory, before the caches are freed
_GPU_FAILED = "The GPU has failed; the service is about to restart."


class _CancelledError(Exception):
    """The caller no longer awaits the image."""


class _Sample(NamedTuple):
    """The thread's result: an image, and the values that the response reports about it."""

    image: Image.Image
    canvas: Canvas
    steps: int
    fallback: str | None
    unread_tokens: int


@dataclass
class _Job:
    """A request in the queue."""

    request: Request
    on_step: AfterStep | None = None
    warm_up: bool = False
    stepped: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    result: Future[_Sample] = field(default_factory=Future)


class Engine:
    """A queue of requests and the thread that runs them. While it runs, nothing else may use the model.

    Args:
        model: What `load` returned.
        oom_fallback: Whether to generate once more, at half the size with half the steps, when memory runs out.
        metadata: Whether image files hold the prompts and the seed.
        on_failure: Called once, on any thread, with the reason of a failure from which only a new process recovers: the
            GPU is lost, it hangs, or its memory stays full.
        hang_after: Seconds after which unusually long work counts as hung; see `Watchdog`.
        cancel_timeout: Seconds in which a cancelled request must end, and for which `stop` waits for the thread.
    """

    def __init__(
        self,
        model: Model,
        *,
        oom_fallback: bool = True,
        metadata: bool = True,
        on_failure: Callable[[str], object] = lambda reason: None,
        hang_after: float = 60,
        cancel_timeout: float = 120,
    ) -> None:
        self.model = model
        self.failure: str | None = None  # the reason given to `on_failure`
        self._oom_fallback = oom_fallback
        self._metadata = metadata
        self._on_failure = on_failure
        self._cancel_timeout = cancel_timeout
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="imagegen-engine", daemon=True)
        self._watchdog = Watchdog(
            self._fail,
            hang_after=hang_after,
            cancel_timeout=cancel_timeout,
            exempt=lambda: model.fast_path is not None and model.fast_path.capturing,
        )
        self._out_of_memory = 0  # requests in a row that ran out of memory
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # held while a job is queued, so that none is queued after `stop`

    @property
    def profile(self) -> Profile:
        """The model's defaults and bounds."""
        return self.model.profile

    def start(self) -> None:
        """Start the thread and its watchdog."""
        self._thread.start()
        self._watchdog.start()

    def stop(self) -> None:
        """Stop within one step. Requests that are queued or running raise EngineStopped."""
        with self._lock:
            self._stopping.set()
            self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(self._cancel_timeout)
        self._watchdog.stop()

    async def warm_up(self) -> None:
        """Generate an image for each task, so that the first request is fast, and drop the tasks that fail.

        If all tasks are known to work, the first one suffices. Raises LoadError if no task works.
        """
        model = self.model
        for task in [*model.pipelines][: 1 if model.profile.all_tasks_work else None]:
            try:
                await self._submit(_Job(_warm_up_request(model, task), warm_up=True))
            except NotFinite as error:
                raise LoadError(
                    f"{model.name} cannot be used in {model.precision}: {error} "
                    "Check its weights, or choose another IMAGEGEN_PRECISION."
                ) from error
            except (OutOfMemory, EngineFailed, EngineStopped) as error:
                raise LoadError(f"{model.name} cannot generate its warm-up image: {error}") from error
            except ImagegenError as error:
                if model.profile.all_tasks_work or len(model.pipelines) == 1:
                    raise LoadError(f"{model.name} cannot generate its warm-up image: {error}") from error
                log.warning("%s cannot do %s: %s", model.name, task, error)
                del model.pipelines[task]
                model.info["pipelines"] = list(model.pipelines)

    async def generate(self, request: Request, *, on_step: AfterStep | None = None) -> Picture:
        """Generate the image of a request. `on_step` is called after each step, on the engine's thread.

        Raises InputError, Unsupported, OutOfMemory, NotFinite, ImageRejected, EngineStopped, EngineFailed, or
        ImagegenError for anything else.
        """
        completed = self._complete(request)
        if request.image:
            completed = await asyncio.to_thread(_fit_images, completed)
        sampled = await self._submit(_Job(completed, on_step))
        image = await asyncio.to_thread(finish, sampled.image, sampled.canvas, completed)
        metrics.images.labels(request.task).inc()
        used = replace(completed, scheduler=completed.scheduler or self.model.scheduler_name)
        return Picture(
            image,
            metadata=request_metadata(used, image.size, sampled.steps, self.model.name, sampled.unread_tokens),
            generated_size=sampled.image.size,
            origin=self.model.origin,
            precision=self.model.precision,
            resized_from=request.resized_from,
            private=not self._metadata,
            fallback=sampled.fallback,
        )

    def _complete(self, request: Request) -> Request:
        """Return the request with a seed and the model's own values for what it leaves out."""
        model = self.model
        if request.task not in model.pipelines:
            raise Unsupported(f"{model.name} does not support {request.task}.")
        if len(request.references) >= (most := model.profile.max_images):
            message = f"references must have at most {most - 1} images for {model.name}; got {len(request.references)}."
            raise InputError(f"{message} Leave some out.", field="references")
        if request.scheduler:
            schedulers.create(model.scheduler, request.scheduler)  # raises InputError
        completed = apply_defaults(request, model.profile, model.arguments(request.task))
        return replace(completed, seed=secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed)

    async def _submit(self, job: _Job) -> _Sample:
        """Queue a job and await it. Cancelling removes it from the queue or stops it."""
        with self._lock:
            self._check_running()
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

    def _check_running(self) -> None:
        """Raise EngineFailed or EngineStopped if the engine cannot generate images."""
        if self.failure:
            raise EngineFailed(_GPU_FAILED)
        if self._stopping.is_set() or not self._thread.is_alive():
            raise EngineStopped("The engine is not running: the service is starting or stopping.")

    def _fail(self, reason: str) -> None:
        with self._lock:
            if self.failure is not None:
                return
            self.failure = reason
        log.critical("Engine failed: %s", reason)
        self._on_failure(reason)

    def _run(self) -> None:
        """Run one job after the other until the engine stops."""
        with metrics.threads.track_inprogress():
            while (job := self._jobs.get()) is not None:
                if job.result.set_running_or_notify_cancel():
                    metrics.queue.dec()
                    self._run_job(job)
                del job  # otherwise its images stay in memory until the next job
                if self._out_of_memory >= _MAX_OUT_OF_MEMORY:
                    self._recover()

    def _run_job(self, job: _Job) -> None:
        """Run a job and set its result, or the error that its caller sees."""
        began = time.perf_counter()
        try:
            with metrics.busy.track_inprogress():
                job.result.set_result(self._sample(job))
        except Exception as error:  # noqa: BLE001 - any error belongs to the caller
            job.result.set_exception(self._client_error(error, job))
        finally:
            self._watchdog.abort()
            metrics.busy_seconds.inc(time.perf_counter() - began)

    def _recover(self) -> None:
        """Free all caches and generate the warm-up image; if that fails, report an engine failure."""
        self._out_of_memory = 0
        log.warning("Out of memory %d times in a row: freeing the caches", _MAX_OUT_OF_MEMORY)
        job = _Job(_warm_up_request(self.model, next(iter(self.model.pipelines))), warm_up=True)
        try:
            if self.model.fast_path:
                self.model.fast_path.free_caches()
            free_memory()
        except Exception as error:  # noqa: BLE001 - the GPU may be lost by now
            job.result.set_exception(error)
        else:
            self._run_job(job)
        failure = job.result.exception()
        if failure is None:
            log.info("Generated the warm-up image after freeing the caches")
        elif not isinstance(failure, EngineStopped):
            self._fail(f"Out of memory {_MAX_OUT_OF_MEMORY} times in a row, and the warm-up image failed: {failure}")

    def _client_error(self, error: Exception, job: _Job) -> Exception:
        """Log an error of a pipeline, and return the one that the client sees instead."""
        if isinstance(error, NotFinite) and not job.warm_up:  # `warm_up` reports its own errors
            metrics.errors.inc()
            model, request = self.model, job.request
            log.error("%s (%s in %s, %s, seed %d)", error, model.name, model.precision, request.task, request.seed)
        if isinstance(error, _CancelledError | ImagegenError):
            return error
        if not job.warm_up and not job.stepped and not is_fatal(error) and (rejected := self._rejected(error, job)):
            log.warning("%s rejected a request: %s", self.model.name, rejected, exc_info=error)
            return rejected
        metrics.errors.inc()
        if not job.warm_up:
            log.error("Generation failed", exc_info=error)
        if is_fatal(error):
            self._fail(f"{type(error).__name__} on the GPU")
            return EngineFailed(_GPU_FAILED)
        if job.warm_up:  # its message is for the operator
            reason = (str(error).splitlines() or [""])[0].rstrip(".")
            return ImagegenError(f"{type(error).__name__}: {reason}.")
        return ImagegenError("Generation failed.")

    def _rejected(self, error: Exception, job: _Job) -> InputError | None:
        """Return the error for a request that a pipeline did not accept before its first step; None for other errors.

        Pipelines check their arguments by ValueError. With another scheduler than theirs they fail in many ways.
        """
        request = job.request
        reason = client_reason(error) if isinstance(error, ValueError) else ""
        if request.scheduler:
            return schedulers.failed(self.model.scheduler, request.scheduler, reason)
        if not reason:
            return None
        field_name = "images_b64" if request.references else "image_b64" if request.image else "prompt"
        return InputError(f"The model does not accept this request: {reason}.", field=field_name)

    def _sample(self, job: _Job) -> _Sample:
        """Sample a job's image; if memory runs out, sample once more at half the size with half the steps."""
        self._check_running()
        steps = job.request.steps or 1  # a completed request has steps
        sampled = self._attempt(job, steps=steps)
        if sampled is None and self._oom_fallback:
            log.warning("Out of memory: trying again at half the size with half the steps")
            sampled = self._attempt(job, steps=max(1, steps // 2), shrink=0.5, fallback="out-of-memory")
        if sampled is None:
            self._out_of_memory += 1
            raise OutOfMemory("The image does not fit into the GPU's memory. Request a smaller one.")
        self._out_of_memory = 0
        return sampled

    def _attempt(self, job: _Job, *, steps: int, shrink: float = 1.0, fallback: str | None = None) -> _Sample | None:
        """Sample a job's image once. If memory runs out, free the attempt's memory and return None."""
        canvas = fit_canvas(job.request.size, self.model.profile.sizes, shrink=shrink)

        def after_step(done: int, total: int) -> None:
            job.stepped = True
            self._begin(job, canvas, "step" if done < total else "decode")
            metrics.steps.inc()
            self._check_running()
            if job.cancelled.is_set():
                raise _CancelledError
            if job.on_step:
                job.on_step(done, total)

        self._begin(job, canvas, "prepare")  # and the first step
        try:
            image = sample(self.model, job.request, canvas, steps=steps, after_step=after_step)
            self._watchdog.complete()
            return _Sample(image, canvas, steps, fallback, self._unread_tokens(job))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            metrics.out_of_memory.inc()
        # Not in the `except` block: until it ends, the exception's traceback keeps the tensors alive.
        free_memory()
        return None

    def _unread_tokens(self, job: _Job) -> int:
        """Return how much of the prompt the model did not read; log it."""
        unread, limit = self.model.unread_tokens(job.request.prompt), self.profile.tokens
        if unread:
            log.warning("The prompt is %d tokens longer than the %d that %s reads", unread, limit, self.model.name)
        return unread

    def _begin(self, job: _Job, canvas: Canvas, phase: str) -> None:
        """Tell the watchdog which kind of work begins; all work of one kind takes equally long."""
        request, off = job.request, self.model.profile.guidance_off
        guided = off is not None and (request.guidance or 0) > off
        passes = guided, bool(request.negative_prompt)  # either may need a second forward pass per step
        # Copying weights to the GPU takes an unpredictable time, as other processes use the same memory and bus.
        offloaded = self.model.plan in {"offload", "stream"}
        self._watchdog.begin(None if offloaded else (request.task, canvas.size, passes, phase), job.cancelled)


def _warm_up_request(model: Model, task: Task) -> Request:
    """Return a small request for a task, with the model's own values."""
    image = None if task == "text2image" else Image.new("RGB", model.profile.size, "grey")
    mask = Image.linear_gradient("L").resize(model.profile.size) if task == "inpaint" else None
    request = Request("warm-up", steps=_WARM_UP_STEPS, seed=0, image=image, mask=mask)
    return apply_defaults(request, model.profile, model.arguments(task))


def _fit_images(request: Request) -> Request:
    """Return the request with its images scaled and cropped to the size of the result."""
    image = cover(request.image, request.size) if request.image else None
    mask = cover(request.mask, request.size) if request.mask else None
    references = tuple(limit_area(each, _REFERENCE_AREA) for each in request.references)
    return replace(request, image=image, mask=mask, references=references)
