"""FLUX's modulation vectors (adaLN-Zero, arXiv 2212.09748) as one table, and where each layer's vectors are in it.

In black-forest-labs' model.py each block maps the conditioning vector `vec` to shift, scale and gate vectors with a
`Modulation` layer of its own. `vec` depends on the timestep, the guidance and the pooled prompt, but not on the
latents. Here all these layers are one linear layer. One matmul per image computes the vectors of all steps.

A step's row of the table holds these vectors of D values:

    double block 0, 1, …   image attention   shift, scale, gate   (img_mod1 in model.py)
                           image MLP         shift, scale, gate   (img_mod2)
                           text attention    shift, scale, gate   (txt_mod1)
                           text MLP          shift, scale, gate   (txt_mod2)
    single block 0, 1, …   attention and MLP shift, scale, gate   (mod)
    final layer                              scale, shift
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch

from imagegen.flux.kernels.norm import VectorOffsets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from imagegen.flux.linear import Linear


class LayerModulation(NamedTuple):
    """What one layer (attention, MLP, or a single block's both) reads of the modulation table.

    The norm at the layer's start also applies the gate of the layer before it. `text_norm` and `image_norm` say where
    the three vectors of that norm are. `text_gate` and `image_gate` are the layer's own indices in `FoldedGates`.
    """

    text_norm: VectorOffsets
    image_norm: VectorOffsets
    text_gate: int
    image_gate: int
    first: bool
    """Whether no layer comes before, so that the norm has nothing to add."""


class ModulationLayout(NamedTuple):
    """The order of the vectors in a row of the modulation table.

    Vectors come in triples (shift, scale, gate). A triple's index is that of the layer whose vectors it holds.
    """

    double_blocks: int
    single_blocks: int
    width: int

    @property
    def triples(self) -> int:
        """Number of triples: two per stream of a double block, one per single block."""
        return 4 * self.double_blocks + self.single_blocks

    @property
    def size(self) -> int:
        """Number of values in a row: all triples, then the final layer's scale and shift."""
        return (3 * self.triples + 2) * self.width

    def image_triple(self, block: int) -> int:
        """Index of a double block's first image triple; its MLP's is the next one."""
        return 4 * block

    def text_triple(self, block: int) -> int:
        """Index of a double block's first text triple; its MLP's is the next one."""
        return 4 * block + 2

    def single_triple(self, block: int) -> int:
        """Index of a single block's triple; the first index after the last block is that of the final layer."""
        return 4 * self.double_blocks + block

    def offset(self, triple: int) -> int:
        """Offset of a triple's first value in a row."""
        return 3 * triple * self.width

    def layers(self) -> list[LayerModulation]:
        """Return the modulation of all layers in the order of the forward pass; the last one is the final layer's."""
        order: list[tuple[int, int] | None] = [None]  # triples of (text, image); None at both ends
        for block in range(self.double_blocks):
            text, image = self.text_triple(block), self.image_triple(block)
            order += [(text, image), (text + 1, image + 1)]
        order += [(self.single_triple(block),) * 2 for block in range(self.single_blocks)]
        return [self._layer(before, layer) for before, layer in pairwise([*order, None])]

    def _layer(self, before: tuple[int, int] | None, layer: tuple[int, int] | None) -> LayerModulation:
        text, image = (
            VectorOffsets(
                gate=0 if before is None else self.offset(before[stream]) + 2 * self.width,
                scale=self.offset(self.triples) if layer is None else self.offset(layer[stream]) + self.width,
                shift=self.offset(self.triples) + self.width if layer is None else self.offset(layer[stream]),
            )
            for stream in (0, 1)
        )
        return LayerModulation(text, image, *(layer or (0, 0)), first=before is None)


class FoldedGates(NamedTuple):
    """The scale and bias of every fp8 layer that a gate follows, both times that gate.

    gate * (scale * product + bias) = (gate * scale) * product + (gate * bias), so the matmul's epilogue applies the
    gate and adds the result to the residual stream.
    """

    scales: tuple[Tensor, ...]
    """(B, D) float32 for each triple."""
    biases: tuple[Tensor, ...]
    """(B, D) bf16 for each triple."""


def fold_gates(table: Tensor, layers: Sequence[Linear]) -> FoldedGates:
    """Fold the gates of a table (B, vectors * D) into the scales and biases of `layers`, one per triple, in order."""
    width = layers[0].weight.shape[0]
    gates = table.view(len(table), -1, width)[:, 2::3]
    scales = gates * torch.cat([layer.scale for layer in layers]).view(-1, width)
    biases = gates * torch.cat([layer.bias for layer in layers]).view(-1, width)
    return FoldedGates(scales.unbind(1), biases.unbind(1))
