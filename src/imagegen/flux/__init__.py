"""A faster FLUX.1 for GPUs from Ampere on, tuned for Hopper. It generates the same images as diffusers' modules.

* `pipeline`: loading the modules into diffusers' pipelines, which run unchanged
* `model`, `blocks`, `modulation`: the transformer
* `linear`, `cublas`: linear layers in bf16 or fp8, and their matmuls
* `attention`: the choice of attention kernel
* `kernels`: Triton kernels
* `cuda_graph`: capture and replay of kernel launches
* `text_encoders`, `vae`: the other parts of a pipeline
* `weights`: reading weights from disk
"""

from __future__ import annotations

from importlib import util


def supported() -> bool:
    """Return whether this process has a GPU that computes in bf16, and Triton."""
    import torch

    return (
        torch.cuda.is_available()
        and torch.cuda.get_device_capability() >= (8, 0)
        and util.find_spec("triton") is not None
    )
