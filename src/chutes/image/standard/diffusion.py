"""The image that a server of diffusers runs in."""

DIFFUSION = "chutes/diffusion:0.34.0.po"
