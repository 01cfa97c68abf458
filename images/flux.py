"""The container image of the FLUX service."""

from images import cuda_image

readme = """`FLUX.1 [dev]` is a 12 billion parameter rectified flow transformer that draws what a text describes.

It is guidance-distilled, so that a step takes one forward pass, and its weights are open under their own licence.
This service draws, redraws and repaints with it: `/generate`, `/batch`, `/img2img`, `/inpaint`.
"""

image = cuda_image("flux.1-dev", "0.0.2", readme)
