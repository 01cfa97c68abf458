"""The device of this process, and data parallelism over several processes under torchrun."""

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
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start() -> torch.device:
    """Return the device of this process, and join the process group if there are several processes."""
    if not torch.cuda.is_available():
        if world_size() > 1 and not distributed.is_initialized():
            distributed.init_process_group("gloo")
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # cuDNN 9.19 reads out of bounds with 32 and 288 tokens
    dynamo.config.suppress_errors = True  # if compilation fails, run uncompiled
    if world_size() > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl", device_id=device)
    return device


def stop() -> None:
    """Leave the process group."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context that computes in bfloat16 on CUDA devices and in float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda")


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all processes, in one all-reduce."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    pieces = (flat / world_size()).split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(
        gradients, [piece.view_as(gradient) for piece, gradient in zip(pieces, gradients, strict=True)]
    )


def broadcast_weights(model: nn.Module) -> None:
    """Copy the first process's weights to all processes."""
    if world_size() > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            distributed.broadcast(tensor.data, 0)


def broadcast_bool(flag: bool, device: torch.device) -> bool:
    """Return the first process's flag in all processes, so that all take the same decision."""
    if world_size() == 1:
        return flag
    value = torch.tensor(int(flag), device=device)
    distributed.broadcast(value, 0)
    return bool(value.item())


def mean(value: Tensor) -> float:
    """Return a scalar, averaged over the processes."""
    if world_size() > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return float(value) / world_size()


def barrier() -> None:
    """Wait for all processes, for example until the first one has written a file."""
    if world_size() > 1:
        distributed.barrier()
