"""The container image of the FLUX service."""

from images import cuda_image

readme = """`FLUX.1 [dev]` is a 12 billion parameter rectified flow transformer that generates images from text.

It is guidance-distilled, so a step takes one forward pass. Its weights are open, under a licence of their own.
This service offers text-to-image, image-to-image and inpainting: `/generate`, `/batch`, `/img2img`, `/inpaint`.
"""

image = cuda_image("flux.1-dev", "0.0.2", readme)
