"""What an author is warned of while a chute is defined, pointing at the author's line."""

import os
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import pydantic

from chutes.exception import ChutesWarning

# Between an author's line and a warning of ours lies our own code, and that of models that call it.
_NOT_THE_AUTHORS = tuple(str(Path(file).parent) + os.sep for file in (__file__, pydantic.__file__))


def warn(message: str) -> None:
    """Warn, naming the nearest line outside of this package."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - the one way to find the author's line
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_AUTHORS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ChutesWarning, stacklevel=level)


def warn_unknown(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Warn of each name that nothing here reads, with the known one it may have been meant for."""
    known = list(known)
    for name in names:
        warn(f"{where} does not know {name!r}, it has no effect{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`. Did you mean 'x'?`, or nothing when no known name is near."""
    near = get_close_matches(name.lower(), list(known), n=1)
    return f". Did you mean {near[0]!r}?" if near else ""
