"""Chutes, self-hosted: write a GPU inference service as decorated Python, and run it on your own machines.

The classes are imported on first use, so that `import chutes` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chutes._version import version as __version__

if TYPE_CHECKING:
    from chutes.chute import Chute, NodeSelector
    from chutes.image import Image

__all__ = ["Chute", "Image", "NodeSelector", "__version__"]

_MODULES = {"Chute": "chutes.chute", "Image": "chutes.image", "NodeSelector": "chutes.chute"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
