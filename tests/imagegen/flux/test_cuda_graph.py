"""Replayed graphs return what the function would return; without a GPU the function is called."""

import os
import weakref
from typing import Any

import pytest
import torch

from imagegen.flux import cuda_graph

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def test_each_call_gets_its_own_result_at_any_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "_MAX_SHAPES", 2)
    weight = torch.randn(8, 8, device=DEVICE)
    calls = []

    def run(x: Any, shift: Any) -> Any:
        calls.append(x.shape)
        return x @ weight + shift, x.sum(0)

    cache = cuda_graph.CudaGraphCache()
    results = []
    # Three shapes, of which two are kept: the one used longest ago is captured again.
    for rows in (4, 4, 5, 5, 4, 6, 6, 5, 5, 4):
        given = torch.randn(rows, 8, device=DEVICE), torch.randn(8, device=DEVICE)
        results.append((given, cache(run, *given)))
    for (x, shift), (shifted, summed) in results:
        assert torch.equal(shifted, x @ weight + shift)
        assert torch.equal(summed, x.sum(0))
    if DEVICE == "cuda":
        assert [shape[0] for shape in calls] == [4, 5, 6, 5, 4]
        assert len(cache.captured) == 2


@pytest.mark.skipif(DEVICE == "cpu", reason="graphs need a GPU")
def test_clear_frees_the_memory() -> None:
    cache, seen = cuda_graph.CudaGraphCache(), []

    def run(x: Any) -> Any:
        seen.append(cache.capturing)
        return ((x.expand(-1, 2**20) * 2).exp().sum(),)

    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    cache(run, torch.zeros(64, 1, device=DEVICE))
    assert seen == [True]
    assert not cache.capturing
    assert torch.cuda.memory_reserved() > before + 2**27
    cache.clear()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < before + 2**24


@pytest.mark.skipif(DEVICE == "cpu", reason="graphs need a GPU")
def test_graphs_share_their_memory() -> None:
    cache = cuda_graph.CudaGraphCache()

    def run(x: Any) -> Any:
        return ((x.expand(-1, 2**20) * 2).exp().sum(),)

    def held_after(*rows: Any) -> Any:
        for count in rows:
            cache(run, torch.zeros(count, 1, device=DEVICE))
            torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    largest = held_after(64)  # 256 MiB and more
    assert held_after(*range(50, 60)) < largest + 2**26


@pytest.mark.parametrize(("flushes", "graphs"), [(1, 4), (2, 2), (3, 2), (4, 1)])
def test_a_capture_in_several_graphs_returns_the_same(
    flushes: int, graphs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graph, "_FLUSHES_PER_GRAPH", flushes)
    cache = cuda_graph.CudaGraphCache()

    def run(x: Any) -> Any:
        kept = x * 2
        for _ in range(3):
            x = (x @ x).relu() + kept
            cache.flush()
        return x - kept, kept

    for rows in (4, 4, 5, 4, 5):
        x = torch.randn(rows, rows, device=DEVICE, dtype=torch.float64)
        last, kept = cache(run, x)
        y = x
        for _ in range(3):
            y = (y @ y).relu() + x * 2
        torch.testing.assert_close(last, y - x * 2)
        assert torch.equal(kept, x * 2)
    if DEVICE == "cuda":
        assert [len(each.graphs) for each in cache.captured.values()] == [graphs, graphs]


def test_without_memory_for_a_capture_the_function_runs_after_freeing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large:
        """Stands for the memory of a capture."""

    cache, held = cuda_graph.CudaGraphCache(), []

    def capture(run: Any, given: Any) -> None:
        large = Large()
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def run(x: Any) -> Any:
        return (x + (held[0]() is None),)

    class OnTheGpu(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(cache, "_capture", capture)
    (out,) = cache(run, torch.zeros(3).as_subclass(OnTheGpu))
    assert out.tolist() == [1, 1, 1]
    assert not cache.captured


@pytest.mark.skipif(DEVICE == "cpu", reason="graphs need a GPU")
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("no such thing")])
def test_an_error_during_a_capture_leaves_the_cache_usable(error: Any) -> None:
    cache = cuda_graph.CudaGraphCache()
    attempts = []

    def run(x: Any) -> Any:
        attempts.append(x)
        y = x + 1
        cache.flush()
        if len(attempts) == 1:
            raise error
        return (y * 2,)

    x = torch.ones(3, device=DEVICE)
    if isinstance(error, torch.OutOfMemoryError):
        (out,) = cache(run, x)  # not captured
        assert torch.equal(out, (x + 1) * 2)
    else:
        with pytest.raises(ValueError, match="no such thing"):
            cache(run, x)
    assert not cache.captured
    for given in (x, x + 1, x + 2):
        (out,) = cache(run, given)
        assert torch.equal(out, (given + 1) * 2)
    assert len(attempts) == (3 if isinstance(error, torch.OutOfMemoryError) else 2)
