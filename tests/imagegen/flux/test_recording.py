"""What is replayed is what would have been computed; on a CPU, where nothing is recorded, it is computed."""

import os

import pytest
import torch

from imagegen.flux import recording

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def test_each_call_gets_its_own_result_at_any_shape(monkeypatch):
    monkeypatch.setattr(recording, "_KEPT", 2)
    weight = torch.randn(8, 8, device=DEVICE)
    calls = []

    def run(x, shift):
        calls.append(x.shape)
        return x @ weight + shift, x.sum(0)

    recorder = recording.Recorder()
    results = []
    # Three shapes with room for two: the first one is forgotten, and recorded once more.
    for rows in (4, 4, 5, 5, 4, 6, 6, 5, 5, 4):
        given = torch.randn(rows, 8, device=DEVICE), torch.randn(8, device=DEVICE)
        results.append((given, recorder(run, *given)))
    for (x, shift), (shifted, summed) in results:
        assert torch.equal(shifted, x @ weight + shift)
        assert torch.equal(summed, x.sum(0))
    if DEVICE == "cuda":
        assert [shape[0] for shape in calls] == [4, 4, 5, 5, 6, 6, 5, 5, 4, 4]  # each run, then recorded
        assert len(recorder.graphs) == 2


@pytest.mark.skipif(DEVICE == "cpu", reason="nothing is recorded without a GPU")
def test_recordings_share_their_memory():
    recorder = recording.Recorder()

    def run(x):
        return ((x.expand(-1, 2**20) * 2).exp().sum(),)

    def held_after(*rows):
        for count in rows:
            recorder(run, torch.zeros(count, 1, device=DEVICE))
            torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    largest = held_after(64)  # 256 MiB and more
    assert held_after(*range(50, 60)) < largest + 2**26


def test_memory_that_runs_out_while_recording_costs_the_recording_only(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    recorder = recording.Recorder()
    monkeypatch.setattr(recorder, "_record", full)
    x = torch.ones(3)
    (out,) = recorder._first(lambda given: (given + 1,), (x.shape,), (x,))
    assert torch.equal(out, x + 1)
    assert not recorder.graphs
