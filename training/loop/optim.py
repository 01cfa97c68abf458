"""The optimizer: Muon for the matrices, AdamW for the rest; and the running average of the weights.

Muon steps along the orthogonal matrix nearest to the momentum (K. Jordan et al., 2024, "Muon: an optimizer for hidden
layers"), which it finds with a Newton-Schulz iteration. The iteration diverges for singular values above one, which
can result from rounding to half precision. Therefore each matrix is scaled to below one with a margin, and non-finite
values become zero.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


@torch.no_grad()
def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate the nearest semi-orthogonal matrix to each of (stack, rows, columns)."""
    dtype = torch.bfloat16 if matrices.is_cuda else torch.float32
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.float()
    x = (x / (x.norm(dim=(1, 2), keepdim=True) * 1.02 + 1e-7)).to(dtype)
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    x = x.mT if tall else x
    return torch.nan_to_num(x.float(), nan=0.0, posinf=0.0, neginf=0.0)


class Muon:
    """Muon over stacks of equally shaped matrices; a convolution is a matrix (out, in x kernel)."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, momentum: float = 0.95) -> None:
        self.rate, self.momentum = rate, momentum
        shapes: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            shapes[parameter.shape[0], parameter.numel() // parameter.shape[0]].append(parameter)
        self.stacks = [
            (group, torch.zeros(len(group), *shape, device=group[0].device)) for shape, group in shapes.items()
        ]

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Take a step with `scale` times the learning rate."""
        for group, momentum in self.stacks:
            stack = torch.stack([_gradient(parameter).reshape(momentum.shape[1:]) for parameter in group])
            momentum.lerp_(stack, 1 - self.momentum)
            update = orthogonalize(stack.lerp(momentum, self.momentum))
            rows, columns = momentum.shape[1:]
            rate = self.rate * scale * max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - 0.01 * rate).sub_(change.reshape(parameter.shape), alpha=rate)


class MuonAdamW:
    """Muon for inner matrices; AdamW for biases, norms and the layers whose name contains one of `outer`."""

    def __init__(self, model: nn.Module, muon_rate: float, adam_rate: float, outer: tuple[str, ...]) -> None:
        inner: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim >= 2 and not any(part in name for part in outer)
            (inner if matrix else rest).append(parameter)
        self.parameters = [*inner, *rest]
        self.muon = Muon(inner, muon_rate)
        fused = rest[0].is_cuda
        self.adam = torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)
        self.adam_rate = adam_rate

    def step(self, scale: float) -> None:
        """Clip the gradients, step both optimizers with `scale` times their rates, and clear the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.muon.step(scale)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * scale
        self.adam.step()
        for parameter in self.parameters:
            parameter.grad = None


class EMA:
    """An exponential moving average of a model's weights. The averages are exported, not the live weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = [parameter.detach() for parameter in model.parameters()]
        self.mean = [parameter.clone() for parameter in self.live]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages from the live weights; the first updates use a smaller decay."""
        self.steps += 1
        torch._foreach_lerp_(self.mean, self.live, 1 - min(self.decay, self.steps / (self.steps + 10)))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live weights and the averaged ones."""
        kept = [weight.clone() for weight in self.live]
        torch._foreach_copy_(self.live, self.mean)
        torch._foreach_copy_(self.mean, kept)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
