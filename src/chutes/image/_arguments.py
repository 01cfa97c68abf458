"""Validation of the image builder's arguments."""

import re
import shlex
from pathlib import Path

MAX_PORT = 65_535

_NAME = re.compile(r"[a-z0-9][a-z0-9-_.]*", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|ms|s|m|h))+")
_VARIABLE = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE)
_VARIABLE_RULE = "Use letters, digits and '_', and do not start with a digit."
_RULES = {  # the pattern that a value must match, and the rule in words
    "image reference": (
        re.compile(
            r"(?:[a-z0-9][a-z0-9.-]*(?::\d+)?/)?"  # host
            r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"  # path
            r"(?::\w[\w.-]{0,127})?(?:@sha256:[a-f0-9]{64})?",  # tag, digest
            re.IGNORECASE,
        ),
        "Use a form such as 'nvidia/cuda:12.4.1-runtime-ubuntu22.04'.",
    ),
    "package name": (
        re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+:*~=-]*"),
        "Use the name of a Debian package, such as 'ffmpeg' or 'ffmpeg=7:5.1'.",
    ),
    "build argument": (_VARIABLE, _VARIABLE_RULE),
    "environment variable": (_VARIABLE, _VARIABLE_RULE),
    "label": (
        re.compile(r"[a-z][a-z0-9]*([.-][a-z0-9]+)*"),
        "Use lower-case letters and digits, with '.' or '-' between parts, such as 'org.example.team'.",
    ),
    "owner": (re.compile(r"[a-z0-9_-]+(:[a-z0-9_-]+)?", re.IGNORECASE), "Use a form such as 'user' or 'user:group'."),
    "mode": (re.compile(r"[0-7]{3,4}"), "Use three or four octal digits, such as '755'."),
    "checksum": (re.compile(r"sha256:[a-f0-9]{64}"), "Use 'sha256:' and 64 hex digits."),
}


def check(kind: str, value: str | None) -> str | None:
    """Return an argument of a kind in `_RULES`, or None. Raise AssertionError if it is malformed."""
    pattern, rule = _RULES[kind]
    if value is not None and not pattern.fullmatch(value):
        raise AssertionError(f"Invalid {kind}: {value!r}. {rule}")
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
        raise AssertionError(f"The image adds {source!r}, which does not exist in {Path.cwd()}. Correct the path.")


def flatten(values: tuple[str | list[str], ...]) -> list[str]:
    """Return a flat list of the strings in a sequence of strings and lists of strings."""
    return [each for value in values for each in ([value] if isinstance(value, str) else value)]


def package_names(packages: tuple[str | list[str], ...]) -> list[str]:
    """Return the names of Debian packages. Raise AssertionError if one is malformed, or if there is none."""
    names = [name for package in flatten(packages) for name in package.split()]
    if not names:
        raise AssertionError(f"Debian packages must not be empty; got {packages!r}. Name at least one package.")
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
        raise AssertionError(f"Python packages must not be empty; got {packages!r}. Name at least one package.")
    return words


def duration(value: str | float | None) -> str | None:
    """Return a duration in Docker's format. A number is in seconds. Raise AssertionError if it is malformed."""
    if isinstance(value, (int, float)):
        return f"{value:g}s"
    if value is not None and not _DURATION.fullmatch(value):
        raise AssertionError(f"Invalid duration: {value!r}. Use a number of seconds, or a string such as '1m30s'.")
    return value
