"""The builder of the container image in which a chute runs."""

from chutes.image.base import Image

__all__ = ["Image"]
