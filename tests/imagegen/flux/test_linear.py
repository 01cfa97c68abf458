"""Linear layers and attention compute the same as float64, and write to their own columns only.

Outputs start as NaN.
"""

from typing import Any

import pytest
import torch

from imagegen.flux import attention as attention_module
from imagegen.flux import cublas
from imagegen.flux.attention import attention
from imagegen.flux.kernels.fp8 import FP8, Quantized
from imagegen.flux.linear import Linear

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
FULL = [(4608, 3072, 12288), (4096, 3072, 9216), (512, 12288, 3072), (1536, 15360, 3072)] if CUDA else []


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("padding", [0, 64])
@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 64, 192), (37, 192, 64), (130, 128, 320), *FULL])
def test_linear(rows: Any, inner: Any, outer: Any, padding: int, gelu: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(inner, outer, device=DEVICE)
    layer.write("weight", 0, torch.randn(outer, inner) / inner**0.5)
    layer.write("bias", 0, torch.randn(outer))
    x = torch.randn(rows, inner + padding, device=DEVICE, dtype=torch.bfloat16)[:, padding:]
    wide = torch.full((rows, padding + outer), torch.nan, device=DEVICE, dtype=torch.bfloat16)
    expected = torch.addmm(layer.bias.double(), x.double(), layer.weight.double().t())
    if gelu:
        expected = torch.nn.functional.gelu(expected, approximate="tanh")
    y = layer.store(x, wide[:, padding:], gelu=gelu)
    assert y.data_ptr() == wide[:, padding:].data_ptr()
    assert wide[:, :padding].isnan().all()
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=4e-3)
    assert torch.equal(layer(x, gelu=gelu), y)


@pytest.mark.skipif(not CUDA, reason="needs the GPU's fp8 matmul")
@pytest.mark.parametrize("padding", [0, 64])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    ("rows", "inner", "outer"),
    [(16, 64, 192), (37, 192, 64), (1261, 3072, 9216), (4608, 3072, 12288), (1024, 12288, 3072), (4608, 15360, 3072)],
)
def test_fp8_linear_on_hopper_and_as_on_other_gpus(
    rows: int, inner: int, outer: int, add: bool, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = Linear(inner, outer, fp8=True, device=DEVICE)
    layer.write("weight", 0, torch.randn(outer, inner, device=DEVICE) / inner**0.5)
    layer.write("bias", 0, torch.randn(outer))
    x = Quantized(torch.randn(rows, inner, device=DEVICE).to(FP8), torch.rand(rows, 1, device=DEVICE) + 0.5)
    wide = torch.full((rows, outer + padding), torch.nan, device=DEVICE, dtype=torch.bfloat16)
    there = torch.randn(rows, outer, device=DEVICE).to(torch.bfloat16)
    scale, bias = (layer.scale[:, 0], layer.bias) if not add else (torch.randn(outer, device=DEVICE), -layer.bias)

    def computed(y: torch.Tensor) -> torch.Tensor:
        if not add:
            return layer.store(x, y)
        layer.gated_add(x, y.copy_(there), scale, bias)
        return y

    weight = layer.weight.double() * scale.double()[:, None]
    expected = torch.addmm(bias.double(), x.values.double() * x.scale.double(), weight.t())
    expected += there.double() if add else 0
    y = computed(wide[:, :outer])
    assert wide[:, outer:].isnan().all()
    assert (y.double() - expected).norm() < 2**-8 * expected.norm()
    monkeypatch.setattr(cublas, "is_hopper", lambda _device: False)
    elsewhere = computed(torch.empty_like(there))
    assert (elsewhere - y).double().norm() < 2**-7 * expected.norm()
    if not add and inner <= 3072:
        torch.testing.assert_close(elsewhere, y, rtol=2**-7, atol=4e-3)


@pytest.mark.skipif(not CUDA, reason="needs the GPU's matmuls")
@pytest.mark.parametrize("fp8", [False, True])
def test_kernels_are_loaded_for_other_numbers_of_rows(fp8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cublas, "plans", {})
    monkeypatch.setattr(cublas, "_PRELOADED_ROWS", range(32, 97, 32))
    layer = Linear(192, 64, fp8=fp8, device=DEVICE)
    layer.write("weight", 0, torch.randn(64, 192))
    layer.write("bias", 0, torch.randn(64))
    given = torch.randn(96, 192, device=DEVICE)
    x = Quantized(given.to(FP8), torch.ones(96, 1, device=DEVICE)) if fp8 else given.to(torch.bfloat16)
    few = Quantized(x.values[:8], x.scale[:8]) if fp8 else x[:8]
    layer(few)  # fewer rows than kernels are loaded for
    y = layer(x)
    cublas.load_kernels(torch.cuda.current_device())
    assert sorted(shape.rows for shape, _ in cublas.plans) == [8, 32, 64, 96]
    assert torch.equal(layer(x), y)


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("rows", [1, 512, 1536, 2304, 4096, 4608, 8672])
@pytest.mark.parametrize(("inner", "outer"), [(3072, 9216), (3072, 12288), (15360, 3072), (3072, 3072)])
def test_chosen_tiles_take_no_longer_than_128x128(inner: int, outer: int, rows: int, fp8: bool) -> None:
    """Count whole rounds of tiles, one tile per multiprocessor."""
    shape = cublas.Shape(rows, outer, inner, inner, outer, gelu=False, fp8=fp8, add=False)
    tiles = cublas.tiles_for(shape, sm_count=132)
    height = 128 if tiles is None else {tile: rows for rows, tile in cublas._TILES.items()}[tiles.tile]
    rounds = {rows_: -(-(outer // 128 * -(-rows // rows_)) // 132) for rows_ in (128, height)}
    assert rounds[height] * height <= rounds[128] * 128
    assert fp8 or tiles is None or (rows >= 2048 and outer > inner)


@pytest.mark.parametrize(("batch", "length"), [(1, 64), (2, 77)])
def test_attention_into_columns_of_a_wider_buffer(batch: int, length: int) -> None:
    torch.manual_seed(0)
    heads, dim = 2, 64
    qkv = torch.randn(batch, length, 3, heads, dim, device=DEVICE, dtype=torch.bfloat16)
    wide = torch.full((batch, length, heads * dim + 64), torch.nan, device=DEVICE, dtype=torch.bfloat16)
    out = attention(qkv, wide[..., : heads * dim])
    q, k, v = (part.transpose(1, 2).double() for part in qkv.unbind(2))
    weights = (q @ k.transpose(-1, -2) / dim**0.5).softmax(dim=-1)
    expected = (weights @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out.double(), expected, rtol=2**-7, atol=5e-3)
    assert wide[..., heads * dim :].isnan().all()
    assert torch.equal(attention(qkv), out)


def test_attention_runs_without_a_package_built_for_another_pytorch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def incompatible(_name: Any) -> None:
        raise ImportError("undefined symbol")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(attention_module.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(attention_module, "import_module", incompatible)
    assert attention_module.flash_attention_3.__wrapped__() is None
    assert "built for another PyTorch" in caplog.text
