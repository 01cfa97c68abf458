"""Validation of the image builder's arguments."""

import re
import shlex
from pathlib import Path

LAST_PORT = 65_535

_NAME = re.compile(r"[a-z0-9][a-z0-9-_.]*", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|ms|s|m|h))+")
_PATTERNS = {
    "image reference": re.compile(
        r"(?:[a-z0-9][a-z0-9.-]*(?::\d+)?/)?"  # host
        r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"  # path
        r"(?::\w[\w.-]{0,127})?(?:@sha256:[a-f0-9]{64})?",  # tag, digest
        re.IGNORECASE,
    ),
    "package name": re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+:*~=-]*"),
    "build argument": re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE),
    "environment variable": re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE),
    "label": re.compile(r"[a-z][a-z0-9]*([.-][a-z0-9]+)*"),
    "owner": re.compile(r"[a-z0-9_-]+(:[a-z0-9_-]+)?", re.IGNORECASE),
    "mode": re.compile(r"[0-7]{3,4}"),
    "checksum": re.compile(r"sha256:[a-f0-9]{64}"),
}


def check(kind: str, value: str | None) -> str | None:
    """Return an argument of one of the kinds above, or None. Raise AssertionError if it is malformed."""
    if value is not None and not _PATTERNS[kind].fullmatch(value):
        raise AssertionError(f"Invalid {kind}: {value!r}.")
    return value


def check_name(kind: str, name: str) -> str:
    """Return the name or the tag of an image. Raise ValueError if it is malformed."""
    if not _NAME.fullmatch(name):
        rule = "Use letters, digits, '-', '_' and '.', and start with a letter or digit."
        raise ValueError(f"Invalid image {kind}: {name!r}. {rule}")
    return name


def check_exists(source: str) -> None:
    """Raise AssertionError if a path or glob pattern matches no file."""
    path = Path(source)
    if not path.exists() and not any(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
        raise AssertionError(f"The image adds {source!r}, which does not exist in {Path.cwd()}.")


def flatten(values: tuple[str | list[str], ...]) -> list[str]:
    """Return the strings in a sequence of strings and lists of strings."""
    return [each for value in values for each in ([value] if isinstance(value, str) else value)]


def package_names(packages: tuple[str | list[str], ...]) -> list[str]:
    """Return the names of Debian packages. Raise AssertionError if one is malformed, or if there is none."""
    names = [name for package in flatten(packages) for name in package.split()]
    if not names:
        raise AssertionError("At least one package is required.")
    for name in names:
        check("package name", name)
    return names


def pip_words(packages: tuple[str | list[str], ...]) -> list[str]:
    """Return the arguments of `pip install`. Raise AssertionError if there are none.

    An option and its value become two words. A requirement stays one word, even if it contains spaces.
    """
    words = [
        word
        for package in flatten(packages)
        for word in (shlex.split(package) if package.startswith("-") else [package.strip()])
    ]
    if not words:
        raise AssertionError("At least one package is required.")
    return words


def duration(value: str | float | None) -> str | None:
    """Return a time as Docker reads it; a number is in seconds. Raise AssertionError if it is malformed."""
    if isinstance(value, (int, float)):
        return f"{value:g}s"
    if value is not None and not _DURATION.fullmatch(value):
        raise AssertionError(f"Invalid duration: {value!r}.")
    return value
