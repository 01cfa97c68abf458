"""Classify a GPU's errors. Running out of memory can be retried; most others leave the process unusable."""

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
    """Return whether memory ran out, by any of the messages of torch and the CUDA libraries."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _OUT_OF_MEMORY)


def is_fatal(error: BaseException) -> bool:
    """Return whether the CUDA context is lost: every later call fails too, until the process ends."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _CONTEXT_LOST)


def free_memory() -> None:
    """Return unused memory to the GPU. Call it when nothing refers to a failed run's tensors any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
