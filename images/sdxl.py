"""A container image for Stable Diffusion XL, for a chute's `image=`."""

from images import cuda_image

image = cuda_image("stable-diffusion", "xl-1.0", "Stable Diffusion XL.")
