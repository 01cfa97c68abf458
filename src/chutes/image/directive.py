"""The directives of a Dockerfile, one class each.

`str(directive)` is the text that Docker reads, with values quoted where Docker would otherwise split or expand them.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

_PLAIN_VALUE = re.compile(r"[\w./:@%+,=~$*{}-]+")
_ARCHIVE = re.compile(r"\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz)$")


class DirectiveType(StrEnum):
    """The Dockerfile instructions that the builder can emit."""

    FROM = "FROM"
    ARG = "ARG"
    RUN = "RUN"
    ADD = "ADD"
    COPY = "COPY"
    ENV = "ENV"
    LABEL = "LABEL"
    WORKDIR = "WORKDIR"
    USER = "USER"
    EXPOSE = "EXPOSE"
    HEALTHCHECK = "HEALTHCHECK"
    ENTRYPOINT = "ENTRYPOINT"


@dataclass
class BaseDirective:
    """A Dockerfile instruction and its arguments.

    Raises:
        ValueError: The arguments contain a line break, which only RUN may have.
    """

    args: str
    type: ClassVar[DirectiveType]

    @property
    def ignored_rules(self) -> tuple[str, ...]:
        """The hadolint rules to disable for this directive, because the author decides what they check."""
        return ()

    def __post_init__(self) -> None:
        if "\n" in self.args and self.type is not DirectiveType.RUN:
            raise ValueError(f"{self.type} must not contain a line break; got {self.args!r}.")

    def __str__(self) -> str:
        return f"{self.type} {self.args}"


class FROM(BaseDirective):
    """The base image."""

    type = DirectiveType.FROM


class RUN(BaseDirective):
    """A shell command.

    Several lines become a script that stops at the first error, unless backslashes join them to one command.
    """

    type = DirectiveType.RUN

    def __post_init__(self) -> None:
        self.args = self.args.strip()
        lines = self.args.split("\n")
        if all(line.rstrip().endswith("\\") for line in lines[:-1]) or self.args.startswith("<<"):
            return
        end = "EOF"
        while end in lines:
            end += "_"
        # hadolint requires an empty line after a here-document.
        self.args = "\n".join([f"<<{end}", "set -e", *lines, end, ""])


class APT(RUN):
    """A command that installs or removes Debian packages. `action` is `install` or `remove`."""

    def __init__(self, action: str, packages: Iterable[str]) -> None:
        names = " ".join(packages)
        self._pinned = action != "install" or all("=" in name for name in names.split())
        if action == "install":
            super().__init__(
                "apt-get update"
                f" && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {names}"
                " && rm -rf /var/lib/apt/lists/*"
            )
        else:
            super().__init__(f"apt-get {action} -y {names}")

    @property
    def ignored_rules(self) -> tuple[str, ...]:
        """The hadolint rule about unpinned versions, unless all versions are pinned."""
        return () if self._pinned else ("DL3008",)


class PIP(RUN):
    """A command that installs Python packages. `packages` may contain options of pip."""

    def __init__(self, packages: Iterable[str]) -> None:
        words = list(packages)
        self._pinned = all("==" in word for word in words)
        super().__init__(f"pip install --no-cache-dir {' '.join(shell_word(word) for word in words)}")

    @property
    def ignored_rules(self) -> tuple[str, ...]:
        """The hadolint rule about unpinned versions, unless all versions are pinned."""
        return () if self._pinned else ("DL3013",)


class ADD(BaseDirective):
    """Files from a URL, a Git repository or the build context.

    Files of the build context are copied with COPY. Tar archives are unpacked with ADD.
    """

    type = DirectiveType.ADD

    def __init__(self, source: str, dest: str, **flags: str | None) -> None:
        self.source = source
        options = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items() if value is not None]
        super().__init__(" ".join([*options, paths(source, dest)]))

    @property
    def is_remote(self) -> bool:
        """Whether the source is a URL."""
        return "://" in self.source

    def __str__(self) -> str:
        unpacks = self.is_remote or _ARCHIVE.search(self.source)
        return f"{DirectiveType.ADD if unpacks else DirectiveType.COPY} {self.args}"


class WORKDIR(BaseDirective):
    """The working directory of the following directives and of the container."""

    type = DirectiveType.WORKDIR


class ENV(BaseDirective):
    """An environment variable. Docker replaces `$NAME` in its value."""

    type = DirectiveType.ENV

    def __init__(self, key: str, value: str) -> None:
        super().__init__(f"{key}={quoted(value)}")


class ARG(BaseDirective):
    """A build argument and its default."""

    type = DirectiveType.ARG

    def __init__(self, name: str, default: str | None = None) -> None:
        super().__init__(name if default is None else f"{name}={quoted(default)}")


class LABEL(BaseDirective):
    """A label of the image."""

    type = DirectiveType.LABEL

    def __init__(self, key: str, value: str) -> None:
        super().__init__(f"{key}={_in_quotes(value)}")


class MAINTAINER(LABEL):
    """The maintainer, as a label, because Docker deprecates its MAINTAINER instruction."""

    def __init__(self, maintainer: str) -> None:
        super().__init__("maintainer", maintainer)


class USER(BaseDirective):
    """The user of the following directives and of the container."""

    type = DirectiveType.USER

    @property
    def ignored_rules(self) -> tuple[str, ...]:
        """The hadolint rule about user names, unless the user is a number. The image itself may create the user."""
        return () if re.fullmatch(r"\d+(:\d+)?", self.args) else ("DL3066",)


class EXPOSE(BaseDirective):
    """A port that the container listens on."""

    type = DirectiveType.EXPOSE


class HEALTHCHECK(BaseDirective):
    """A command that checks whether the container is healthy. A string runs in a shell."""

    type = DirectiveType.HEALTHCHECK

    def __init__(self, command: str | list[str], **options: str | int | None) -> None:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        super().__init__(" ".join([*flags, "CMD", json.dumps(words)]))


class ENTRYPOINT(BaseDirective):
    """The command that the container runs, as a list of words."""

    type = DirectiveType.ENTRYPOINT

    def __init__(self, command: list[str]) -> None:
        super().__init__(json.dumps(command))


def quoted(value: str) -> str:
    """Return a value, in double quotes if Docker would split it without them."""
    return value if _PLAIN_VALUE.fullmatch(value) else _in_quotes(value)


def _in_quotes(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def paths(source: str, dest: str) -> str:
    """Return source and destination, as JSON if one of them contains spaces."""
    return json.dumps([source, dest]) if re.search(r"\s", source + dest) else f"{source} {dest}"


def shell_word(word: str) -> str:
    """Return a word for the shell, in double quotes if it has special characters, such as the `>` of `torch>=2.4`."""
    return word if re.fullmatch(r"[\w./:@%+,=~-]+", word) else _in_quotes(word)
