"""The modulation table's layout, and the gates folded into the fp8 layers."""

from types import SimpleNamespace

import torch

from imagegen.flux.kernels.norm import VectorOffsets
from imagegen.flux.modulation import LayerModulation, ModulationLayout, fold_gates


def test_each_norm_reads_the_gate_of_the_layer_before_it() -> None:
    layout = ModulationLayout(double_blocks=1, single_blocks=1, width=10)
    assert layout.size == (12 + 3 + 2) * 10
    attention, mlp, single, final = layout.layers()
    assert attention == LayerModulation(VectorOffsets(0, 70, 60), VectorOffsets(0, 10, 0), 2, 0, first=True)
    assert mlp == LayerModulation(VectorOffsets(80, 100, 90), VectorOffsets(20, 40, 30), 3, 1, first=False)
    assert single == LayerModulation(VectorOffsets(110, 130, 120), VectorOffsets(50, 130, 120), 4, 4, first=False)
    assert final[:2] == (VectorOffsets(140, 150, 160),) * 2


def test_gates_are_folded_into_scale_and_bias_of_their_own_layer() -> None:
    layout = ModulationLayout(double_blocks=1, single_blocks=2, width=8)
    table = torch.randn(3, layout.size).to(torch.bfloat16)
    layers = [
        SimpleNamespace(weight=torch.empty(8, 4), scale=torch.rand(8, 1), bias=torch.randn(8).to(torch.bfloat16))
        for _ in range(layout.triple_count)
    ]
    folded = fold_gates(table, layers)
    assert len(folded.scales) == len(folded.biases) == len(layers)
    for index, layer in enumerate(layers):
        gate = table[:, layout.offset(index) + 2 * 8 :][:, :8]
        assert torch.equal(folded.scales[index], gate * layer.scale[:, 0])
        assert torch.equal(folded.biases[index], gate * layer.bias)
