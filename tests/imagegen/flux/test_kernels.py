"""Each kernel computes the same as its formula in float64, at odd sizes and in batches; outputs start as NaN."""

import math
import os
from typing import Any

import pytest
import torch

from imagegen.flux.kernels.fp8 import FP8, Quantized, quantize_rows
from imagegen.flux.kernels.norm import VectorOffsets, gate_residual_norm
from imagegen.flux.kernels.rope import norm_rope

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # in the interpreter
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
BF16 = 2**-8 * (2 if INTERPRETED else 1)  # one rounding costs at most this; the interpreter truncates
E4M3 = 0.08 if INTERPRETED else 0.035  # likewise, with three bits of mantissa

SIZES = [(1, 5, 2, 96), (2, 3, 0, 64), (3, 2, 2, 256)]  # the interpreter takes milliseconds a row
if not INTERPRETED:
    SIZES += [(1, 4608, 512, 3072), (2, 1001, 77, 3072)]


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(torch.bfloat16)


def poisoned(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.full(shape, float("nan"), device=DEVICE).to(dtype)


def error(out: torch.Tensor, reference: torch.Tensor) -> float:
    assert torch.isfinite(out.float()).all()
    return float((out.double() - reference).norm() / reference.norm())


def pick(table: torch.Tensor, at: int, text_at: int, width: int, length: int, text: int) -> torch.Tensor:
    """The vectors each row uses, (B, S, D) in float64."""
    image_rows = table[:, None, at : at + width].double().expand(-1, length - text, -1)
    text_rows = table[:, None, text_at : text_at + width].double().expand(-1, text, -1)
    return torch.cat([text_rows, image_rows], dim=1)


@pytest.mark.parametrize(("batch", "length", "text", "width"), SIZES)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("quantized", [True, False])
def test_gate_residual_norm(batch: Any, length: Any, text: Any, width: Any, gated: bool, quantized: bool) -> None:
    x, y = randn(batch, length, width) * 3 + 1, randn(batch, length, width)
    table = randn(batch, 6 * width)
    of_text = VectorOffsets(gate=0, scale=width, shift=2 * width)
    of_image = VectorOffsets(gate=3 * width, scale=4 * width, shift=5 * width)

    gate, scale, shift = (
        pick(table, image_at, text_at, width, length, text) for image_at, text_at in zip(of_image, of_text, strict=True)
    )
    expected_x = x.double() + gate * y.double() if gated else x.double()
    # What follows reads x as it is stored.
    stored = expected_x.to(torch.bfloat16).double()
    centred = stored - stored.mean(-1, keepdim=True)
    expected = centred * (stored.var(-1, keepdim=True, correction=0) + 1e-6).rsqrt() * (1 + scale) + shift

    out = poisoned(batch, length, width)
    if quantized:
        out = Quantized(
            torch.full((batch, length, width), 7.0, device=DEVICE).to(FP8),
            torch.full((batch, length, 1), -1.0, device=DEVICE),
        )
    gate_residual_norm(x, y if gated else None, out, table, of_text, of_image, text)

    assert error(x, expected_x) < BF16
    if quantized:
        assert (out.scale > 0).all()
        assert error(out.values.double() * out.scale.double(), expected) < E4M3
    else:
        assert error(out, expected) < BF16


@pytest.mark.parametrize(
    ("batch", "length", "text", "heads", "dim"),
    [(1, 5, 2, 3, 32), (2, 2, 0, 9, 128), (2, 2, 2, 8, 64)] + ([] if INTERPRETED else [(2, 9, 0, 24, 128)]),
)
@pytest.mark.parametrize("fp8", [True, False])
def test_norm_rope(batch: int, length: int, text: int, heads: int, dim: int, fp8: bool) -> None:
    qkv = randn(batch, length, 3, heads, dim) * 2
    angles = torch.rand(length, dim // 2, device=DEVICE, dtype=torch.float64) * math.tau
    weights = [randn(dim) for _ in range(4)]
    before = qkv.double()

    normed = before * (before.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    expected = before.clone()
    for part in (0, 1):
        weight = torch.where(
            (torch.arange(length, device=DEVICE) < text)[:, None],
            weights[part].double(),
            weights[2 + part].double(),
        )
        pairs = torch.view_as_complex((normed[:, :, part] * weight[None, :, None]).unflatten(-1, (-1, 2)).contiguous())
        turned = pairs * torch.polar(torch.ones_like(angles), angles)[None, :, None]
        expected[:, :, part] = torch.view_as_real(turned).flatten(-2)

    out = norm_rope(
        qkv, angles.cos().float(), angles.sin().float(), tuple(weights[:2]), tuple(weights[2:]), text, fp8=fp8
    )
    assert (out is qkv) != fp8
    assert error(out, expected) < (E4M3 if fp8 else BF16)


ROWS = [(1, 3, 96, 384), (2, 2, 128, 0), (2, 2, 0, 40)]
if not INTERPRETED:
    ROWS += [(2, 7, 0, 200), (1, 130, 3072, 12288), (2, 67, 0, 12288)]


@pytest.mark.parametrize(("batch", "length", "attention", "hidden"), ROWS)
def test_quantize_rows(batch: Any, length: Any, attention: Any, hidden: Any) -> None:
    a = randn(batch, length, attention) if attention else None
    h = randn(batch, length, hidden) * 3 if hidden else None
    parts = [] if a is None else [a.double()]
    if h is not None:
        parts.append(torch.nn.functional.gelu(h.double(), approximate="tanh"))
    expected = torch.cat(parts, dim=-1)

    out = quantize_rows(a, h)
    assert out.values.shape == expected.shape
    back = out.values.double() * out.scale.double()
    assert error(back, expected) < E4M3
    # The scale puts each row's largest value at the format's largest.
    assert torch.allclose(out.scale[..., 0].double() * 448, expected.abs().amax(-1), rtol=1e-5)
