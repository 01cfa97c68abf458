"""Warnings about a chute's definition, which point to the author's line."""

import os
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

import pydantic

from chutes.exception import ChutesWarning

# Frames to skip on the way to the author's line: this package, and pydantic, whose models call it.
_SKIPPED_FOLDERS = tuple(str(Path(file).parent) + os.sep for file in (__file__, pydantic.__file__))


def warn(message: str) -> None:
    """Issue a ChutesWarning that points to the nearest line outside of this package and pydantic."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - there is no public API
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_SKIPPED_FOLDERS):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ChutesWarning, stacklevel=level)


def warn_unknown(owner: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Warn about each unknown argument, and suggest a known one with a similar name."""
    known = list(known)
    for name in names:
        warn(f"{owner}: unknown argument {name!r} has no effect.{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?`, or an empty string if no known name is similar."""
    similar = get_close_matches(name.lower(), list(known), n=1)
    return f" Did you mean {similar[0]!r}?" if similar else ""
