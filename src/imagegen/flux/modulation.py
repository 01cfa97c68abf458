"""The layout of FLUX's modulation vectors (adaLN-Zero, arXiv 2212.09748) in one table.

In black-forest-labs' model.py each block maps the conditioning vector `vec` to shift, scale and gate vectors with a
`Modulation` layer of its own. `vec` depends on the timestep, the guidance and the pooled prompt, but not on the
latents. Here all these layers are one linear layer. One matmul per image computes the vectors of all steps.

A step's row of the table holds these vectors of D values:

    double block 0, 1, …   image attention   shift, scale, gate   (img_mod1 in model.py)
                           image MLP         shift, scale, gate   (img_mod2)
                           text attention    shift, scale, gate   (txt_mod1)
                           text MLP          shift, scale, gate   (txt_mod2)
    single block 0, 1, …   attention and MLP shift, scale, gate   (mod)
    final layer                              scale, shift          (adaLN_modulation, which has shift first)
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
    """The modulation of one layer: an attention, an MLP, or a whole single block.

    A layer starts with a norm, which also applies the gate of the previous layer (`blocks.Workspace.norm`).
    """

    text_norm: VectorOffsets
    """Where the norm of the text rows reads the previous layer's gate and this layer's scale and shift."""
    image_norm: VectorOffsets
    """Likewise for the image rows."""
    text_gate: int
    """Index of this layer's own gate for the text rows in `FoldedGates`."""
    image_gate: int
    """Likewise for the image rows."""
    first: bool
    """Whether this is the first layer: there is no previous gate to apply."""


class ModulationLayout(NamedTuple):
    """The order of the vectors in a row of the modulation table.

    Vectors come in triples (shift, scale, gate), one for each stream of each layer.
    """

    double_blocks: int
    single_blocks: int
    width: int

    @property
    def triple_count(self) -> int:
        """Number of triples: two per stream of a double block, one per single block."""
        return 4 * self.double_blocks + self.single_blocks

    @property
    def size(self) -> int:
        """Number of values in a row: all triples, then the final layer's scale and shift."""
        return (3 * self.triple_count + 2) * self.width

    def image_triple(self, block: int) -> int:
        """Index of a double block's first image triple; its MLP's is the next one."""
        return 4 * block

    def text_triple(self, block: int) -> int:
        """Index of a double block's first text triple; its MLP's is the next one."""
        return 4 * block + 2

    def single_triple(self, block: int) -> int:
        """Index of a single block's triple."""
        return 4 * self.double_blocks + block

    def offset(self, triple: int) -> int:
        """Offset of a triple's first value in a row."""
        return 3 * triple * self.width

    def layers(self) -> list[LayerModulation]:
        """Return the modulation of all layers in the order of the forward pass; the last one is the final layer's."""
        order: list[tuple[int, int] | None] = [None]  # indices of (text, image) triples; None before the first layer
        for block in range(self.double_blocks):
            text, image = self.text_triple(block), self.image_triple(block)
            order += [(text, image), (text + 1, image + 1)]
        order += [(self.single_triple(block),) * 2 for block in range(self.single_blocks)]
        return [self._layer(previous, layer) for previous, layer in pairwise([*order, None])]  # None: the final layer

    def _layer(self, previous: tuple[int, int] | None, layer: tuple[int, int] | None) -> LayerModulation:
        """Return a layer's modulation, from the (text, image) triples of the previous layer and its own."""

        def norm(stream: int) -> VectorOffsets:
            gate = 0 if previous is None else self.offset(previous[stream]) + 2 * self.width
            if layer is None:
                final = self.offset(self.triple_count)
                return VectorOffsets(gate, scale=final, shift=final + self.width)
            own = self.offset(layer[stream])
            return VectorOffsets(gate, scale=own + self.width, shift=own)

        text_gate, image_gate = layer or (0, 0)
        return LayerModulation(norm(0), norm(1), text_gate, image_gate, first=previous is None)


class FoldedGates(NamedTuple):
    """The scale and bias of every fp8 layer that a gate follows, both times that gate.

    gate * (scale * product + bias) = (gate * scale) * product + (gate * bias). So the matmul's epilogue can apply the
    gate and add the result to the residual stream.
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
