"""Classify a GPU's errors: out of memory can be retried, but most others leave the process unusable."""

import gc

import torch

_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "not enough memory", "can't allocate memory")
_CONTEXT_LOST = (
    "CUDA error",
    "cuDNN error",
    "cuBLAS error",
    "CUBLAS_STATUS",
    "device-side assert",
    "illegal memory access",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of PyTorch or a CUDA library means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _OUT_OF_MEMORY)


def is_fatal(error: BaseException) -> bool:
    """Return whether an error means that the CUDA context is lost, so that every later call in this process fails."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _CONTEXT_LOST)


def free_memory() -> None:
    """Return PyTorch's cached memory to the GPU. Drop all references to a failed run's tensors first."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
