"""A cache of CUDA graphs: replaying a graph launches all its kernels at once, so that the CPU never delays the GPU.

See PyTorch's `torch.cuda.CUDAGraph`. One step of FLUX.1 launches about 500 kernels; from Python these launches take
longer than the kernels themselves at small sizes.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.cuda import _POOL_HANDLE

    Run = Callable[..., tuple[Tensor, ...]]

_MAX_SHAPES = 16  # for which graphs are kept
_FLUSHES_PER_GRAPH = 16  # each further graph costs the GPU a pause of 12 µs at every replay


class _Captured(NamedTuple):
    """The graphs of one shape, in order, with their input and output buffers."""

    graphs: list[torch.cuda.CUDAGraph]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class CudaGraphCache:
    """A cache of one function's kernel launches: captured at the first call of a shape, replayed at the next ones.

    The function takes tensors, returns a tuple of tensors, works on the GPU only, and depends on nothing else that
    changes. It may call `flush` between its layers. Without a GPU the cache just calls the function. Graphs are kept
    for the 16 shapes used last.
    """

    def __init__(self) -> None:
        self.captured: dict[tuple[torch.Size, ...], _Captured] = {}  # ordered by last use
        self._in_progress: list[torch.cuda.CUDAGraph] = []  # the graphs of the current capture
        self._flushes = 0

    @torch.inference_mode()
    def __call__(self, run: Run, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what `run` returns for these inputs, in new tensors; pass the same `run` at each call.

        If memory for the capture runs out, all graphs are freed and `run` is called without one.
        """
        if not inputs[0].is_cuda:
            return run(*inputs)
        shapes = tuple(value.shape for value in inputs)
        captured = self.captured.pop(shapes, None)
        if captured is not None:
            for buffer, value in zip(captured.inputs, inputs, strict=True):
                buffer.copy_(value)
            for graph in captured.graphs:
                graph.replay()
        else:
            while len(self.captured) >= _MAX_SHAPES:
                self.captured.pop(next(iter(self.captured)))
            with suppress(torch.OutOfMemoryError):
                captured = self._capture(run, inputs)
        if captured is None:  # not in an `except` block, where the traceback keeps tensors alive
            self.clear()  # the graphs' memory may be what `run` lacks
            return run(*inputs)
        self.captured[shapes] = captured
        return tuple(value.clone() for value in captured.outputs)

    @property
    def capturing(self) -> bool:
        """Whether a capture is in progress; may be read from any thread."""
        return bool(self._in_progress)

    def clear(self) -> None:
        """Free all graphs with their memory."""
        self.captured.clear()

    def flush(self) -> None:
        """At every 16th call, end the graph being captured, replay it, and begin the next one.

        Capturing takes longer than running. The GPU runs the captured graphs instead of waiting for the last one.
        """
        self._flushes += 1
        if self._in_progress and self._flushes % _FLUSHES_PER_GRAPH == 0:
            self._end()
            self._begin(self._in_progress[0].pool())

    def _capture(self, run: Run, inputs: tuple[Tensor, ...]) -> _Captured:
        buffers = tuple(value.clone() for value in inputs)
        # All graphs share one memory pool, as no two run at the same time.
        graphs = [graph for captured in self.captured.values() for graph in captured.graphs]
        pool = graphs[0].pool() if graphs else torch.cuda.graph_pool_handle()
        if torch.cuda.mem_get_info()[0] < torch.cuda.memory_reserved() - torch.cuda.memory_allocated():
            torch.cuda.empty_cache()  # the capture cannot use memory that the allocator has cached
        torch.cuda.current_blas_handle()  # cannot be created during a capture
        # Not `torch.cuda.graph`, which first waits for the GPU to finish its queued work.
        stream = _capture_stream()
        stream.wait_stream(torch.cuda.current_stream())
        self._flushes = 0
        try:
            with torch.cuda.stream(stream):
                self._begin(pool)
                try:
                    outputs = run(*buffers)
                finally:
                    self._end()
        finally:
            graphs, self._in_progress = self._in_progress, []
            torch.cuda.current_stream().wait_stream(stream)
        return _Captured(graphs, buffers, outputs)

    def _begin(self, pool: _POOL_HANDLE) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool, capture_error_mode="relaxed")  # allows kernels to be loaded during the capture
        self._in_progress.append(graph)

    def _end(self) -> None:
        self._in_progress[-1].capture_end()
        self._in_progress[-1].replay()


@cache
def _capture_stream() -> torch.cuda.Stream:
    """Return the stream of all captures: memory freed by one capture is reused by another only on the same stream."""
    return torch.cuda.Stream()
