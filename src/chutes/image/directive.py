"""The instructions of a Dockerfile: what each takes, and how it is written so that Docker reads what was meant."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

_PLAIN_VALUE = re.compile(r"[\w./:@%+,=~$*{}-]+")
_ARCHIVE = re.compile(r"\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz)$")


class DirectiveType(StrEnum):
    """The instructions there are."""

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
    """One instruction; `str()` is its text."""

    args: str
    type: ClassVar[DirectiveType]

    @property
    def ignore(self) -> tuple[str, ...]:
        """Rules of hadolint that ask for what the author did not say, and need not."""
        return ()

    def __post_init__(self) -> None:
        if "\n" in self.args and self.type is not DirectiveType.RUN:
            raise ValueError(f"{self.type} takes one line, not {self.args!r}")

    def __str__(self) -> str:
        return f"{self.type} {self.args}"


class FROM(BaseDirective):
    """The base image."""

    type = DirectiveType.FROM


class RUN(BaseDirective):
    """A shell command. Several lines that are not one command already become a script that stops at the first error."""

    type = DirectiveType.RUN

    def __post_init__(self) -> None:
        self.args = self.args.strip()
        lines = self.args.split("\n")
        if all(line.rstrip().endswith("\\") for line in lines[:-1]) or self.args.startswith("<<"):
            return
        end = "EOF"
        while end in lines:
            end += "_"
        # hadolint wants an empty line after it.
        self.args = "\n".join([f"<<{end}", "set -e", *lines, end, ""])


class APT(RUN):
    """Packages of the distribution, to `install` or to `remove`."""

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
    def ignore(self) -> tuple[str, ...]:
        """Which versions to pin is the author's to say."""
        return () if self._pinned else ("DL3008",)


class PIP(RUN):
    """Packages of Python, with pip's own options among them where they are given."""

    def __init__(self, packages: Iterable[str]) -> None:
        words = list(packages)
        self._pinned = all("==" in word for word in words)
        super().__init__(f"pip install --no-cache-dir {' '.join(shell_word(word) for word in words)}")

    @property
    def ignore(self) -> tuple[str, ...]:
        """Which versions to pin is the author's to say."""
        return () if self._pinned else ("DL3013",)


class ADD(BaseDirective):
    """Files from an address or the build context. The latter are copied, or unpacked if they are a tar archive."""

    type = DirectiveType.ADD

    def __init__(self, source: str, dest: str, **flags: str | None) -> None:
        self.source = source
        options = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items() if value is not None]
        super().__init__(" ".join([*options, paths(source, dest)]))

    @property
    def is_remote(self) -> bool:
        """Whether the source is an address."""
        return "://" in self.source

    def __str__(self) -> str:
        unpacks = self.is_remote or _ARCHIVE.search(self.source)
        return f"{DirectiveType.ADD if unpacks else DirectiveType.COPY} {self.args}"


class WORKDIR(BaseDirective):
    """The folder that what follows happens in."""

    type = DirectiveType.WORKDIR


class ENV(BaseDirective):
    """An environment variable; `$NAME` in its value is replaced."""

    type = DirectiveType.ENV

    def __init__(self, key: str, value: str) -> None:
        super().__init__(f"{key}={quoted(value)}")


class ARG(BaseDirective):
    """A build argument."""

    type = DirectiveType.ARG

    def __init__(self, name: str, default: str | None = None) -> None:
        super().__init__(name if default is None else f"{name}={quoted(default)}")


class LABEL(BaseDirective):
    """A label."""

    type = DirectiveType.LABEL

    def __init__(self, key: str, value: str) -> None:
        super().__init__(f"{key}={_in_quotes(value)}")


class MAINTAINER(LABEL):
    """Who looks after it: a label, since the instruction of this name is deprecated."""

    def __init__(self, maintainer: str) -> None:
        super().__init__("maintainer", maintainer)


class USER(BaseDirective):
    """Who runs what follows."""

    type = DirectiveType.USER

    @property
    def ignore(self) -> tuple[str, ...]:
        """Names are as good as numbers where the image itself makes the user."""
        return () if re.fullmatch(r"\d+(:\d+)?", self.args) else ("DL3066",)


class EXPOSE(BaseDirective):
    """A port that is listened on."""

    type = DirectiveType.EXPOSE


class HEALTHCHECK(BaseDirective):
    """A command that tells whether the container is well."""

    type = DirectiveType.HEALTHCHECK

    def __init__(self, command: str | list[str], **options: str | int | None) -> None:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        super().__init__(" ".join([*flags, "CMD", json.dumps(words)]))


class ENTRYPOINT(BaseDirective):
    """The command that the container runs."""

    type = DirectiveType.ENTRYPOINT

    def __init__(self, command: list[str]) -> None:
        super().__init__(json.dumps(command))


def quoted(value: str) -> str:
    """A value as it stands, or in double quotes where Docker would split it or read it otherwise."""
    return value if _PLAIN_VALUE.fullmatch(value) else _in_quotes(value)


def _in_quotes(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def paths(source: str, dest: str) -> str:
    """Source and destination, as JSON where one of them has spaces."""
    return json.dumps([source, dest]) if re.search(r"\s", source + dest) else f"{source} {dest}"


def shell_word(word: str) -> str:
    """One word for the shell: in quotes if it would take any of it for its own, as the `>` of `torch>=2.4`."""
    return word if re.fullmatch(r"[\w./:@%+,=~-]+", word) else _in_quotes(word)
