"""Which GPU errors are out of memory, which are fatal, and which are neither."""

from typing import Any

import pytest
import torch

from imagegen.cuda_errors import free_memory, is_fatal, is_out_of_memory

MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("cublasLtMatmul failed with CUBLAS_STATUS_ALLOC_FAILED"),
    MemoryError(),
]
FATAL = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cublasLtMatmul failed with CUBLAS_STATUS_EXECUTION_FAILED"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]
OTHERS = [RuntimeError("shape mismatch"), ValueError("CUDA error: not from torch"), KeyError("out of memory")]


@pytest.mark.parametrize("error", MEMORY, ids=repr)
def test_out_of_memory(error: Any) -> None:
    assert is_out_of_memory(error)
    assert not is_fatal(error)


@pytest.mark.parametrize("error", FATAL, ids=repr)
def test_fatal(error: Any) -> None:
    assert is_fatal(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_errors_that_are_neither(error: Any) -> None:
    assert not is_fatal(error)
    assert not is_out_of_memory(error)


def test_freeing_works_without_a_gpu() -> None:
    free_memory()
