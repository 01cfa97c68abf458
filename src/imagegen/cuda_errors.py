"""What a GPU's errors mean: out of memory can be retried; most others leave the process unusable."""

import gc

import torch

_MEMORY = ("out of memory", "ALLOC_FAILED", "not enough memory", "can't allocate memory")
_POISONED = (
    "CUDA error",
    "cuDNN error",
    "cuBLAS error",
    "CUBLAS_STATUS",
    "device-side assert",
    "illegal memory access",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in any of the ways that torch and the CUDA libraries say so."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MEMORY)


def is_fatal(error: BaseException) -> bool:
    """Whether the CUDA context is lost: every call after such an error fails too, until the process ends."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _POISONED)


def free_memory() -> None:
    """Give back what a failed attempt held, once nothing refers to it any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
