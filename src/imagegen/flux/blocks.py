"""FLUX's two kinds of transformer block, over one `Workspace` of buffers.

The blocks are those of black-forest-labs/flux, model.py: a `DoubleBlock` has separate weights for text and image,
which attend jointly; a `SingleBlock` has one set of weights for both and runs attention and MLP in parallel.

In model.py a layer computes x + gate * f(norm(x) * (1 + scale) + shift). Here one kernel fuses the gated sum with the
norm of the next layer: a layer starts with `Workspace.norm`, which first adds the previous layer's gated output. With
fp8 weights, the matmul's epilogue adds the gated output instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from imagegen.flux.attention import attention
from imagegen.flux.kernels.fp8 import Quantized, quantize_rows
from imagegen.flux.kernels.norm import gate_residual_norm
from imagegen.flux.kernels.rope import norm_rope
from imagegen.flux.linear import Linear

if TYPE_CHECKING:
    from imagegen.flux.modulation import FoldedGates, LayerModulation

    Rows = tuple[int, slice]
    """The index of an item of the batch, and the slice of its rows that one stream uses."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The buffers of one forward pass: B items of S = T + N rows (T of text, then N of image) and D values.

    Both streams share each buffer. Joint attention and the elementwise kernels read them without a copy. The rows of
    one stream of one item are contiguous, so the stream's matmuls write straight into the buffer.
    """

    x: Tensor
    """(B, S, D) bf16, the residual stream."""
    y: Tensor
    """(B, S, D) bf16, the output of the previous layer, to which its gate is not yet applied."""
    normed: Tensor | Quantized
    """(B, S, D), LayerNorm(x) * (1 + scale) + shift, which the next matmuls read: bf16 or fp8."""
    cos: Tensor
    """(S, Dh / 2) float32, of the rotary position embedding."""
    sin: Tensor
    """(S, Dh / 2) float32."""
    table: Tensor
    """(B, vectors * D) bf16, the step's modulation vectors (`modulation.ModulationLayout`)."""
    gates: FoldedGates | None
    """The gates for fp8 matmuls; None in bf16."""
    text_length: int
    fp8_attention: bool
    text_rows: list[Rows]
    image_rows: list[Rows]

    @classmethod
    def allocate(
        cls,
        x: Tensor,
        text_length: int,
        cos: Tensor,
        sin: Tensor,
        table: Tensor,
        gates: FoldedGates | None,
        *,
        fp8_attention: bool,
    ) -> Workspace:
        """Allocate the other buffers for a residual stream `x`; with `gates`, the matmuls are in fp8."""
        items = range(len(x))
        return cls(
            x=x,
            y=torch.empty_like(x),
            normed=torch.empty_like(x) if gates is None else Quantized.empty(*x.shape, device=x.device),
            cos=cos,
            sin=sin,
            table=table,
            gates=gates,
            text_length=text_length,
            fp8_attention=fp8_attention,
            text_rows=[(item, slice(text_length)) for item in items],
            image_rows=[(item, slice(text_length, None)) for item in items],
        )

    def norm(self, modulation: LayerModulation, out: Tensor | Quantized | None = None) -> None:
        """Compute x += gate * y for the previous layer, then write the modulated LayerNorm of x to `normed` or `out`.

        In fp8 only the LayerNorm is left to compute, because `gated_add` has updated x already.
        """
        gate_residual_norm(
            self.x,
            None if modulation.first or self.gates is not None else self.y,
            self.normed if out is None else out,
            self.table,
            modulation.text_norm,
            modulation.image_norm,
            self.text_length,
        )

    def gated_add(self, layer: Linear, inputs: Tensor | Quantized, rows: Rows, gate: int) -> None:
        """Compute x += gate * layer(inputs): in fp8 at once, in bf16 with the next `norm`, which reads it from y.

        `gate` is the index of the layer's gate in `FoldedGates`.
        """
        if isinstance(inputs, Quantized) and self.gates is not None:
            item, _ = rows
            layer.gated_add(inputs, self.x[rows], self.gates.scales[gate][item], self.gates.biases[gate][item])
        else:
            layer.store(inputs, self.y[rows])

    def empty(self, width: int) -> Tensor:
        """Allocate an uninitialized buffer with a row for each row of x: (B, S, width) in bf16."""
        return self.x.new_empty(*self.x.shape[:2], width)


class SelfAttention(nn.Module):
    """The projection to q, k and v, and the RMSNorm weights of q's and k's heads."""

    def __init__(self, width: int, dim: int, *, fp8: bool, device: torch.device | str) -> None:
        super().__init__()
        self.dim = dim
        self.qkv = Linear(width, 3 * width, fp8=fp8, device=device)
        self.q_norm = nn.Parameter(torch.empty(dim, dtype=torch.bfloat16, device=device), requires_grad=False)
        self.k_norm = nn.Parameter(torch.empty(dim, dtype=torch.bfloat16, device=device), requires_grad=False)

    @property
    def norms(self) -> tuple[Tensor, Tensor]:
        """The RMSNorm weights of q and k, (Dh,) each."""
        return self.q_norm, self.k_norm


class Stream(SelfAttention):
    """One stream's weights in a double block."""

    def __init__(self, width: int, dim: int, *, fp8: bool, device: torch.device | str) -> None:
        super().__init__(width, dim, fp8=fp8, device=device)
        self.out = Linear(width, width, fp8=fp8, device=device)
        self.up = Linear(width, 4 * width, fp8=fp8, device=device)
        self.down = Linear(4 * width, width, fp8=fp8, device=device)


class DoubleBlock(nn.Module):
    """Joint attention of text and image, then an MLP; each stream has its own weights and modulation."""

    def __init__(
        self,
        width: int,
        dim: int,
        attention_modulation: LayerModulation,
        mlp_modulation: LayerModulation,
        *,
        fp8: bool,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.attention_modulation, self.mlp_modulation = attention_modulation, mlp_modulation
        self.text = Stream(width, dim, fp8=fp8, device=device)
        self.image = Stream(width, dim, fp8=fp8, device=device)

    def forward(self, ws: Workspace) -> None:
        """Update `ws.x` by attention and MLP. In bf16 the MLP's output stays in `ws.y` until the next norm adds it."""
        self._attention(ws, self.attention_modulation)
        self._mlp(ws, self.mlp_modulation)

    def _attention(self, ws: Workspace, modulation: LayerModulation) -> None:
        """Compute img += img_mod1.gate * proj(attention) and txt += txt_mod1.gate * proj(attention)."""
        ws.norm(modulation)
        qkv = ws.empty(3 * ws.x.shape[-1])
        for stream, rows, _ in self._streams(ws, modulation):
            stream.qkv.store(_take(ws.normed, rows), qkv[rows])
        attended: Tensor | Quantized
        attended = _attend(ws, qkv, self.text, self.image, ws.text_length)
        if ws.gates is not None:
            attended = quantize_rows(attention=attended)
        for stream, rows, gate in self._streams(ws, modulation):
            ws.gated_add(stream.out, _take(attended, rows), rows, gate)

    def _mlp(self, ws: Workspace, modulation: LayerModulation) -> None:
        """Compute img += img_mod2.gate * mlp(img) and txt += txt_mod2.gate * mlp(txt)."""
        ws.norm(modulation)
        if ws.gates is None:
            for stream, rows, gate in self._streams(ws, modulation):
                ws.gated_add(stream.down, stream.up(_take(ws.normed, rows), gelu=True), rows, gate)
            return
        hidden = ws.empty(4 * ws.x.shape[-1])
        for stream, rows, _ in self._streams(ws, modulation):
            stream.up.store(_take(ws.normed, rows), hidden[rows])
        activated = quantize_rows(hidden=hidden)  # applies GELU
        for stream, rows, gate in self._streams(ws, modulation):
            ws.gated_add(stream.down, _take(activated, rows), rows, gate)

    def _streams(self, ws: Workspace, modulation: LayerModulation) -> list[tuple[Stream, Rows, int]]:
        """Return each stream's weights, rows and gate for every item; the image first, as its matmuls take longer."""
        images = [(self.image, rows, modulation.image_gate) for rows in ws.image_rows]
        return images + [(self.text, rows, modulation.text_gate) for rows in ws.text_rows]


class SingleBlock(SelfAttention):
    """Attention and an MLP in parallel on the same rows, then one projection of both (arXiv 2302.05442)."""

    def __init__(
        self, width: int, dim: int, modulation: LayerModulation, *, fp8: bool, device: torch.device | str
    ) -> None:
        super().__init__(width, dim, fp8=fp8, device=device)
        self.modulation = modulation
        self.up = Linear(width, 4 * width, fp8=fp8, device=device)
        self.out = Linear(5 * width, width, fp8=fp8, device=device)

    def forward(self, ws: Workspace) -> None:
        """Update `ws.x`. In bf16 the block's output stays in `ws.y` until the next norm adds it."""
        batch, length, width = ws.x.shape
        joined: Tensor | Quantized  # [attention | GELU(MLP)], (B, S, 5 D)

        ws.norm(self.modulation)
        x = _flatten(ws.normed)
        qkv = self.qkv(x).view(batch, length, -1)
        if ws.gates is None:
            joined = ws.empty(5 * width)
            _attend(ws, qkv, self, self, 0, out=joined[..., :width])
            self.up.store(x, joined.flatten(0, 1)[:, width:], gelu=True)
        else:
            joined = quantize_rows(_attend(ws, qkv, self, self, 0), self.up(x).view(batch, length, -1))
        for item in range(batch):
            rows = item, slice(None)
            ws.gated_add(self.out, _take(joined, rows), rows, self.modulation.image_gate)


def _attend(
    ws: Workspace, qkv: Tensor, text: SelfAttention, image: SelfAttention, text_length: int, out: Tensor | None = None
) -> Tensor:
    """Normalize and rotate q and k, then attend over all rows: (B, S, 3 D) -> (B, S, D), into `out` if given."""
    heads = qkv.view(*qkv.shape[:2], 3, -1, text.dim)
    rotated = norm_rope(heads, ws.cos, ws.sin, text.norms, image.norms, text_length, fp8=ws.fp8_attention)
    return attention(rotated, out)


def _take(x: Tensor | Quantized, rows: Rows) -> Tensor | Quantized:
    return Quantized(x.values[rows], x.scale[rows]) if isinstance(x, Quantized) else x[rows]


def _flatten(x: Tensor | Quantized) -> Tensor | Quantized:
    """Join the items' rows: (B, S, D) -> (B * S, D)."""
    return Quantized(x.values.flatten(0, 1), x.scale.flatten(0, 1)) if isinstance(x, Quantized) else x.flatten(0, 1)
