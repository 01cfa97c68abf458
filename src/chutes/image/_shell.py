"""Requirements in an author's shell commands: `pip3 install torch>=2.4.0` would write to a file named `=2.4.0`."""

import re

_PIP_INSTALL = re.compile(
    r"""\b pip [\d.]* \s+ (?: -\S+ \s+ )* install \b  # pip, pip3, pip3.11, `python -m pip`, `uv pip`
        (?P<words> (?: "[^"]*" | '[^']*' | \\\n | [^"'\n;&|] )* )  # up to the end of the command
    """,
    re.VERBOSE,
)
# A name, extras, and versions of which one is compared by < or >. Not `2>err.log` nor `pip>log`: a version follows.
_VERSION = r"\d+(?:\.(?:\d+|\*))*(?:(?:a|b|rc)\d+)?(?:\.(?:post|dev)\d+)?(?:\+[\w.]+)?"
_COMPARED = rf"(?:<=|>=|<|>|==|!=|~=){_VERSION}"
_REQUIREMENT = re.compile(
    rf"""(?<!\S) [A-Za-z][\w.-]* (?:\[[\w,.-]*\])?  (?=\S*[<>]) {_COMPARED} (?:,{_COMPARED})* (?!\S)""", re.VERBOSE
)


def quote_requirements(command: str) -> str:
    """The command with the requirements that the shell would take for redirections in double quotes."""
    return _PIP_INSTALL.sub(_quote, command)


def _quote(install: re.Match[str]) -> str:
    head, words = install[0].removesuffix(install["words"]), install["words"]
    # Words in quotes already are left alone.
    parts = re.split(r"""("[^"]*"|'[^']*')""", words)
    return head + "".join(
        part if part[:1] in {'"', "'"} else _REQUIREMENT.sub(lambda found: f'"{found[0]}"', part) for part in parts
    )
