"""The container image that a chute runs in."""

from chutes.image.base import Image

__all__ = ["Image"]
