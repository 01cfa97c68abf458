"""The fast path for FLUX.1 on Hopper GPUs: the same pictures as diffusers' modules, sooner.

`model.py` is the transformer, `kernels.py` its Triton kernels, `quantize.py` its linear layers in bf16 or fp8,
`attention.py` the choice of attention kernel, `vae.py` the decoder and `weights.py` the way from disk. Diffusers'
pipelines run on it unchanged. docs/performance.md has the figures.
"""

from __future__ import annotations

from importlib import util


def supported() -> bool:
    """Whether this process has a GPU and the packages that the fast path needs: bf16 and Triton."""
    import torch

    return (
        torch.cuda.is_available()
        and torch.cuda.get_device_capability() >= (8, 0)
        and util.find_spec("triton") is not None
    )
