"""What is replayed is what would have been computed; on a CPU, where nothing is recorded, it is computed."""

import os

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from imagegen.flux import recording, text

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


def test_an_encoder_answers_as_before_with_a_mask_and_without():
    torch.manual_seed(0)
    config = T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, is_gated_act=True)
    encoder = T5EncoderModel(config).eval().to(DEVICE)
    ids, mask = torch.randint(30, (3, 2, 9), device=DEVICE), torch.ones(2, 9, device=DEVICE)
    mask[:, 5:] = 0
    with torch.no_grad():
        plain = [encoder(each, output_hidden_states=False)[0] for each in ids]
        masked = encoder(ids[0], attention_mask=mask)[0]
        text.record(encoder)
        for each, expected in zip(ids, plain, strict=True):
            assert torch.equal(encoder(each, output_hidden_states=False)[0], expected)
        assert torch.equal(encoder(ids[0], attention_mask=mask)[0], masked)
        assert torch.equal(encoder(ids[0], mask)[0], masked)
    assert not torch.equal(masked, plain[0])


def test_every_layer_of_t5_reads_a_position_bias_that_fused_attention_takes(monkeypatch):
    config = T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, is_gated_act=True)
    encoder = T5EncoderModel(config).eval().to(DEVICE)
    ids = torch.randint(30, (2, 16), device=DEVICE)
    masks = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spied(*given, attn_mask, **options):
        masks.append(attn_mask)
        return attention(*given, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spied)
    with torch.no_grad():
        plain = encoder(ids)[0]
        text.fuse_attention(encoder)
        torch.testing.assert_close(encoder(ids)[0], plain, rtol=1e-3, atol=1e-4)
    assert [mask.stride(-1) for mask in masks] == [4, 4, 4, 1, 1, 1]
    torch.testing.assert_close(masks[-1], masks[0])


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
