"""The fast path for FLUX.1 on Hopper GPUs: the same pictures as diffusers' modules, sooner.

`model.py` is the transformer, `kernels.py` its Triton kernels, `quantize.py` its linear layers in bf16 or fp8,
`cublas.py` their products, `attention.py` the choice of attention kernel, `recording.py` their CUDA graphs, `text.py`
the text encoders, `vae.py` the decoder, `weights.py` the way from disk, and `pipeline.py` puts them into diffusers'
pipelines, which run on them unchanged. docs/performance.md has the figures.
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
