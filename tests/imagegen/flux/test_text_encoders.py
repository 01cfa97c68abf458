"""The text encoders return what transformers' own return, as graphs, with fused attention and with fp8 weights."""

import os
from typing import Any

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from imagegen.flux import text_encoders
from imagegen.flux.kernels.fp8 import FP8, fp8_weight_matmul

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def test_a_graphed_encoder_returns_the_same_with_and_without_a_mask() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, is_gated_act=True)
    encoder = T5EncoderModel(config).eval().to(DEVICE)
    ids, mask = torch.randint(30, (3, 2, 9), device=DEVICE), torch.ones(2, 9, device=DEVICE)
    mask[:, 5:] = 0
    with torch.no_grad():
        plain = [encoder(each, output_hidden_states=False)[0] for each in ids]
        masked = encoder(ids[0], attention_mask=mask)[0]
        graphed = text_encoders.GraphedEncoder(encoder)
        for each, expected in zip(ids, plain, strict=True):
            assert torch.equal(graphed(each, output_hidden_states=False)[0], expected)
        assert torch.equal(graphed(ids[0], attention_mask=mask)[0], masked)
        assert torch.equal(graphed(ids[0], mask)[0], masked)
    assert not torch.equal(masked, plain[0])


def test_every_layer_of_t5_gets_a_position_bias_for_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    config = T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, is_gated_act=True)
    encoder = T5EncoderModel(config).eval().to(DEVICE)
    ids = torch.randint(30, (2, 16), device=DEVICE)
    masks = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spied(*given: Any, attn_mask: Any, **options: Any) -> Any:
        masks.append(attn_mask)
        return attention(*given, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spied)
    with torch.no_grad():
        plain = encoder(ids)[0]
        text_encoders.fuse_attention(encoder)
        torch.testing.assert_close(encoder(ids)[0], plain, rtol=1e-3, atol=1e-4)
    assert [mask.stride(-1) for mask in masks] == [4, 4, 4, 1, 1, 1]
    torch.testing.assert_close(masks[-1], masks[0])


@pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter multiplies the bits of bf16")
@pytest.mark.parametrize(("rows", "out", "inner"), [(1, 7, 16), (130, 200, 96), (512, 10240, 4096)])
def test_fp8_weight_matmul(rows: int, out: int, inner: int) -> None:
    x = torch.randn(rows, inner, device=DEVICE).to(torch.bfloat16)
    weight, scale = torch.randn(out, inner, device=DEVICE).to(FP8), torch.rand(out, device=DEVICE) + 0.5
    expected = (x.double() @ weight.double().t()) * scale.double()
    y = fp8_weight_matmul(x, weight, scale)
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()
    assert (y.double() - expected).norm() < 2**-8 * expected.norm()
