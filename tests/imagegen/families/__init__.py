"""Model families: tiny folders with random weights in diffusers' layout, and the facts that tests need about each."""

from tests.imagegen.families import flux, others, qwen, stable_diffusion, unusual
from tests.imagegen.families.family import Family

FAMILIES: list[Family] = [
    *flux.FAMILIES,
    *stable_diffusion.FAMILIES,
    *qwen.FAMILIES,
    *others.FAMILIES,
    *unusual.FAMILIES,
]

__all__ = ["FAMILIES", "Family"]
