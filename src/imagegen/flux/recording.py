"""A function of tensors as CUDA graphs, so that the CPU, which launches its kernels, never holds the GPU up."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_KEPT = 16  # shapes


class _Graph(NamedTuple):
    """One shape's recording, with the buffers it reads and those it fills."""

    graph: torch.cuda.CUDAGraph
    given: tuple[Tensor, ...]
    out: tuple[Tensor, ...]


class Recorder:
    """Runs a function as it is for the first tensors of a shape, recording it; replays that for the next ones.

    The function takes tensors and returns a tuple of them, works on the GPU only, and depends on nothing else that
    changes. Recording takes about as long as running. Elsewhere than on a GPU the function is just called.
    """

    def __init__(self) -> None:
        self.graphs: dict[tuple[torch.Size, ...], _Graph] = {}  # the one used last is the last

    @torch.inference_mode()
    def __call__(self, run: Callable[..., tuple[Tensor, ...]], *given: Tensor) -> tuple[Tensor, ...]:
        """Return what `run`, always the same one, makes of these tensors, in tensors of the caller's own."""
        if not given[0].is_cuda:
            return run(*given)
        shapes = tuple(value.shape for value in given)
        if shapes not in self.graphs:
            return self._first(run, shapes, given)
        recorded = self.graphs[shapes] = self.graphs.pop(shapes)
        for buffer, value in zip(recorded.given, given, strict=True):
            buffer.copy_(value)
        recorded.graph.replay()
        return tuple(value.clone() for value in recorded.out)

    def _first(
        self, run: Callable[..., tuple[Tensor, ...]], shapes: tuple[torch.Size, ...], given: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        try:
            out = run(*given)
        except torch.OutOfMemoryError:
            self.graphs.clear()  # their memory may be what the next attempt lacks
            raise
        while len(self.graphs) >= _KEPT:
            self.graphs.pop(next(iter(self.graphs)))
        try:
            self.graphs[shapes] = self._record(run, given)
        except torch.OutOfMemoryError:
            self.graphs.clear()  # what could be run, but not recorded, is run the next time too
        return out

    def _record(self, run: Callable[..., tuple[Tensor, ...]], given: tuple[Tensor, ...]) -> _Graph:
        buffers = tuple(value.clone() for value in given)
        # One memory for all recordings, which never run at the same time: that of any other one.
        pool = next((each.graph.pool() for each in self.graphs.values()), torch.cuda.graph_pool_handle())
        if torch.cuda.mem_get_info()[0] < torch.cuda.memory_reserved() - torch.cuda.memory_allocated():
            torch.cuda.empty_cache()  # what the run before has left there may be what the recording needs
        graph = torch.cuda.CUDAGraph()
        # Not `torch.cuda.graph`, which would first wait for the GPU to finish the run before.
        side = _side()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                out = run(*buffers)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(side)
        return _Graph(graph, buffers, out)


@cache
def _side() -> torch.cuda.Stream:
    """Return the stream that recordings are made on: what memory one leaves, another gets on the same stream only."""
    return torch.cuda.Stream()
