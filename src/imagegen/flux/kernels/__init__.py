"""Triton kernels for the memory-bound operations between two matmuls or attention calls.

* `norm`: gated residual, LayerNorm and modulation (adaLN-Zero)
* `rope`: RMSNorm of query and key heads, and rotary position embedding
* `fp8`: GELU, rowwise quantization, and the matmul with T5's fp8 weights
* `vae`: GroupNorm, bias, upsampling and softmax of the VAE

All arithmetic is float32 and rounds once, on the store. Sequence lengths and image sizes are never compile-time
constants, so a new size needs no new kernel.
"""
