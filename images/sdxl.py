"""The container image of the SDXL example."""

from images import cuda_image

image = cuda_image("stable-diffusion", "xl-1.0", "Stable Diffusion XL.")
