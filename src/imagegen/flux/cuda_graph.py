"""A function of tensors as CUDA graphs, so that the CPU, which launches its kernels, never holds the GPU up."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Run = Callable[..., tuple[Tensor, ...]]

_KEPT = 16  # shapes
_FLUSHES = 16  # that a graph is worth: each further graph costs the GPU a pause of 12 µs at every replay


class _Recording(NamedTuple):
    """One shape's graphs in their order, with the buffers that they read and fill."""

    graphs: list[torch.cuda.CUDAGraph]
    given: tuple[Tensor, ...]
    out: tuple[Tensor, ...]


class CudaGraphCache:
    """Records what a function launches for the first tensors of a shape, running it; replays that for the next ones.

    The function takes tensors and returns a tuple of them, works on the GPU only, and depends on nothing else that
    changes. Where it calls `flush`, the GPU may begin with what has been recorded so far. Elsewhere than on a GPU the
    function is just called.
    """

    def __init__(self) -> None:
        self.recordings: dict[tuple[torch.Size, ...], _Recording] = {}  # the one used last is the last
        self._open: list[torch.cuda.CUDAGraph] = []  # of the recording under way
        self._flushes = 0

    @torch.inference_mode()
    def __call__(self, run: Run, *given: Tensor) -> tuple[Tensor, ...]:
        """Return what `run`, always the same one, makes of these tensors, in tensors of the caller's own."""
        if not given[0].is_cuda:
            return run(*given)
        shapes = tuple(value.shape for value in given)
        recording = self.recordings.pop(shapes, None)
        if recording is not None:
            for buffer, value in zip(recording.given, given, strict=True):
                buffer.copy_(value)
            for graph in recording.graphs:
                graph.replay()
        else:
            while len(self.recordings) >= _KEPT:
                self.recordings.pop(next(iter(self.recordings)))
            with suppress(torch.OutOfMemoryError):
                recording = self._record(run, given)
        if recording is None:  # and the exception is gone, with all that its traceback held
            self.clear()  # what they hold may be what it takes to run
            return run(*given)
        self.recordings[shapes] = recording
        return tuple(value.clone() for value in recording.out)

    @property
    def recording(self) -> bool:
        """Whether a recording is under way."""
        return bool(self._open)

    def clear(self) -> None:
        """Forget all recordings, with the memory that they hold."""
        self.recordings.clear()

    def flush(self) -> None:
        """Let the GPU have what is recorded so far, now and then: recording takes longer than running."""
        self._flushes += 1
        if self._open and self._flushes % _FLUSHES == 0:
            self._end()
            self._begin(self._open[0].pool())

    def _record(self, run: Run, given: tuple[Tensor, ...]) -> _Recording:
        buffers = tuple(value.clone() for value in given)
        # One memory for all recordings, which never run at the same time: that of any other one.
        known = [graph for each in self.recordings.values() for graph in each.graphs]
        pool = known[0].pool() if known else torch.cuda.graph_pool_handle()
        if torch.cuda.mem_get_info()[0] < torch.cuda.memory_reserved() - torch.cuda.memory_allocated():
            torch.cuda.empty_cache()  # what others have left there may be what the recording needs
        torch.cuda.current_blas_handle()  # which could not be made while recording
        # Not `torch.cuda.graph`, which would first wait for the GPU to finish what it has.
        side = _side()
        side.wait_stream(torch.cuda.current_stream())
        self._flushes = 0
        try:
            with torch.cuda.stream(side):
                self._begin(pool)
                try:
                    out = run(*buffers)
                finally:
                    self._end()
        finally:
            graphs, self._open = self._open, []
            torch.cuda.current_stream().wait_stream(side)
        return _Recording(graphs, buffers, out)

    def _begin(self, pool: Any) -> None:
        graph = torch.cuda.CUDAGraph()
        # Relaxed: kernels may be loaded meanwhile.
        graph.capture_begin(pool, capture_error_mode="relaxed")
        self._open.append(graph)

    def _end(self) -> None:
        self._open[-1].capture_end()
        self._open[-1].replay()


@cache
def _side() -> torch.cuda.Stream:
    """Return the stream that recordings are made on: what memory one leaves, another gets on the same stream only."""
    return torch.cuda.Stream()
