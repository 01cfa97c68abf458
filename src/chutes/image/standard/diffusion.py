"""The prebuilt image for chutes that run diffusers."""

DIFFUSION = "chutes/diffusion:0.34.0.po"
