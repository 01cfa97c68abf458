"""Warnings about a chute's definition, which point at the author's line."""

import os
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import pydantic

from chutes.exception import ChutesWarning

# Files between an author's line and a warning: this package, and pydantic, whose models call it.
_NOT_THE_AUTHORS = tuple(str(Path(file).parent) + os.sep for file in (__file__, pydantic.__file__))


def warn(message: str) -> None:
    """Issue a ChutesWarning at the nearest line outside of this package."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - there is no public way to the author's line
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_AUTHORS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ChutesWarning, stacklevel=level)


def warn_unknown(owner: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Warn of each unknown argument, and suggest the nearest known one."""
    known = list(known)
    for name in names:
        warn(f"{owner}: unknown argument {name!r} has no effect.{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?`, or an empty string if no known name is near."""
    near = get_close_matches(name.lower(), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
