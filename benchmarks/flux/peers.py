"""Compiled peers: diffusers' transformer, compiled by blocks, in bf16 and with torchao's fp8."""

from __future__ import annotations

from benchmarks.flux.step import SIZES, peer_steps
from benchmarks.flux.weights import transformer


def compiled() -> dict[str, float]:
    """Time diffusers' transformer, compiled by blocks for any size."""
    model = transformer()
    model.compile_repeated_blocks(dynamic=True)
    return peer_steps(model, SIZES)


def torchao() -> dict[str, float]:
    """Time diffusers' transformer with torchao's rowwise dynamic fp8, compiled by blocks."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    model = transformer()
    quantize_(model, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
    model.compile_repeated_blocks()
    return peer_steps(model, SIZES[:1])
