"""The device at hand, and two or more of them side by side: plain data parallelism under torchrun."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import _dynamo as dynamo
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from torch import Tensor, nn


def rank() -> int:
    """This process's number, 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start() -> torch.device:
    """The device of this process; joins the others where there are any."""
    if not torch.cuda.is_available():
        if world() > 1 and not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # with 32 and 288 tokens it read outside its memory (cuDNN 9.19)
    dynamo.config.suppress_errors = True  # what does not compile runs as it is: better slow than not at all
    if world() > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl", device_id=device)
    return device


def stop() -> None:
    """Leave the others."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def half(device: torch.device) -> AbstractContextManager[object]:
    """Half precision where the device is fast at it."""
    return torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda")


def share_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of all processes: one message for all of them."""
    if world() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    pieces = (flat / world()).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [piece.view_as(own) for piece, own in zip(pieces, gradients, strict=True)])


def same_weights(model: nn.Module) -> None:
    """Give every process the first one's weights."""
    if world() > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            distributed.broadcast(tensor.data, 0)


def agreed(flag: bool, device: torch.device) -> bool:
    """Whether the first process says yes: clocks differ, decisions must not."""
    if world() == 1:
        return flag
    value = torch.tensor(int(flag), device=device)
    distributed.broadcast(value, 0)
    return bool(value.item())


def mean(value: Tensor) -> float:
    """A number, averaged over the processes."""
    if world() > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return float(value) / world()


def wait() -> None:
    """Wait for the others: what the first process wrote is there afterwards."""
    if world() > 1:
        distributed.barrier()
