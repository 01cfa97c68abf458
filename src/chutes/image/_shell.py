"""Quoting of pip requirements in shell commands.

Unquoted, `pip install torch>=2.4.0` installs any version of torch and redirects the output to a file named `=2.4.0`.
"""

import re

_PIP_INSTALL = re.compile(
    r"""\b pip [\d.]* \s+ (?: -\S+ \s+ )* install \b  # pip, pip3, pip3.11, `python -m pip`, `uv pip`
        (?P<words> (?: "[^"]*" | '[^']*' | \\\n | [^"'\n;&|] )* )  # up to the end of the command
    """,
    re.VERBOSE,
)
# A name, extras, and version comparisons that contain < or >. A version must follow the operator, so that redirections
# such as `2>err.log` and `pip>log` do not match.
_VERSION = r"\d+(?:\.(?:\d+|\*))*(?:(?:a|b|rc)\d+)?(?:\.(?:post|dev)\d+)?(?:\+[\w.]+)?"
_COMPARISON = rf"(?:<=|>=|<|>|==|!=|~=){_VERSION}"
_REQUIREMENT = re.compile(
    rf"""(?<!\S) [A-Za-z][\w.-]* (?:\[[\w,.-]*\])?  (?=\S*[<>]) {_COMPARISON} (?:,{_COMPARISON})* (?!\S)""", re.VERBOSE
)


def quote_requirements(command: str) -> str:
    """Return a shell command with each pip requirement that contains `<` or `>` in double quotes."""
    return _PIP_INSTALL.sub(_quote, command)


def _quote(install: re.Match[str]) -> str:
    head, words = install[0].removesuffix(install["words"]), install["words"]
    parts = re.split(r"""("[^"]*"|'[^']*')""", words)
    return head + "".join(
        part if part[:1] in {'"', "'"} else _REQUIREMENT.sub(lambda found: f'"{found[0]}"', part) for part in parts
    )
