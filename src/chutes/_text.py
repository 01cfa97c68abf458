"""Escaping of untrusted text, so that it cannot move the cursor, add lines or change the reading order."""

import unicodedata

_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format and surrogate characters, line breaks
_JOINERS = "\u200c\u200d"  # format characters that many scripts and emoji need


def printable(text: str) -> str:
    r"""Return a text on one line, with control characters escaped as in Python: `\n`, `\x1b`, `\u202e`."""
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def printable_lines(text: str, indent: str = "") -> str:
    """Return a text of several lines, with each line made printable and indented."""
    return "\n".join(indent + printable(line) for line in text.split("\n"))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")
