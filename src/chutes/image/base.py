"""An image as an author writes it; `str(image)` is its Dockerfile."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Any, Self
from uuid import NAMESPACE_OID, uuid5

from chutes._warn import warn_unknown
from chutes.image._python import install_python
from chutes.image._shell import quote_requirements
from chutes.image.directive import (
    ADD,
    APT,
    ARG,
    ENTRYPOINT,
    ENV,
    EXPOSE,
    FROM,
    HEALTHCHECK,
    LABEL,
    MAINTAINER,
    PIP,
    RUN,
    USER,
    WORKDIR,
    BaseDirective,
)
from chutes.util.context import is_remote

_NAME = re.compile(r"[a-z0-9][a-z0-9-_.]*", re.IGNORECASE)
_REFERENCE = re.compile(
    r"(?:[a-z0-9][a-z0-9.-]*(?::\d+)?/)?"  # host
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"  # path
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[a-f0-9]{64})?",  # tag, digest
    re.IGNORECASE,
)
_PACKAGE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+:*~=-]*")
_VARIABLE = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE)
_LABEL = re.compile(r"[a-z][a-z0-9]*([.-][a-z0-9]+)*")
_OWNER = re.compile(r"[a-z0-9_-]+(:[a-z0-9_-]+)?", re.IGNORECASE)
_MODE = re.compile(r"[0-7]{3,4}")
_CHECKSUM = re.compile(r"sha256:[a-f0-9]{64}")
_DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|ms|s|m|h))+")
_LAST_PORT = 65_535


class Image:
    """The container image of a chute, step by step; each method returns the image.

    `base_image` is the same as `from_base`, `python_version` the same as `with_python`, `description` the same as
    `readme`.
    """

    default_base_image = "parachutes/python:3.12"

    def __init__(
        self,
        username: str,
        name: str,
        tag: str,
        readme: str = "",
        *,
        base_image: str | None = None,
        python_version: str | None = None,
        description: str = "",
        **unknown: Any,
    ) -> None:
        self.username = username
        self.name = name
        self.tag = tag
        self.readme = readme or description
        self._uid = str(uuid5(NAMESPACE_OID, f"{username}/{name}:{tag}".lower()))
        self._directives: list[BaseDirective] = [FROM(self.default_base_image)]
        if base_image is not None:
            self.from_base(base_image)
        if python_version is not None and not (
            base_image is None and self.default_base_image.endswith(f":{python_version}")
        ):
            self.with_python(python_version)
        warn_unknown("Image", unknown, inspect.signature(Image).parameters.keys() - {"unknown"})

    @property
    def uid(self) -> str:
        """The same id for the same user, name and tag, everywhere."""
        return self._uid

    @property
    def name(self) -> str:
        """What it is called: letters, digits, `-`, `_` and `.`."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"Invalid image name: {name}")
        self._name = name

    @property
    def tag(self) -> str:
        """Which version of it: letters, digits, `-`, `_` and `.`."""
        return self._tag

    @tag.setter
    def tag(self, tag: str) -> None:
        if not _NAME.fullmatch(tag):
            raise ValueError(f"Invalid image tag: {tag}")
        self._tag = tag

    def __str__(self) -> str:
        lines: list[str] = []
        before: BaseDirective | None = None
        for directive in self._directives:
            # What the author wrote as separate steps stays separate layers.
            separate = ("DL3059",) if isinstance(directive, RUN) and isinstance(before, RUN) else ()
            if ignore := (*directive.ignore, *separate):
                lines.append(f"# hadolint ignore={','.join(ignore)}")
            lines.append(str(directive))
            before = directive
        return "\n".join(lines)

    @property
    def sources(self) -> list[str]:
        """The files and folders that it takes, relative to the current folder; patterns as written."""
        return [d.source for d in self._directives if isinstance(d, ADD) and not d.is_remote]

    # What it starts from.

    def from_base(self, base_image: str) -> Self:
        """Start from this image."""
        _require(_REFERENCE, base_image, "image reference")
        self._directives = [FROM(base_image), *(d for d in self._directives if not isinstance(d, FROM))]
        return self

    def with_python(self, version: str = "3.10.15") -> Self:
        """Put this Python first on the PATH; `3.11` means its newest release."""
        return self._append(*install_python(version))

    def with_arg(self, name: str, default: str | None = None) -> Self:
        """Take a build argument."""
        _require(_VARIABLE, name, "build argument")
        return self._append(ARG(name, None if default is None else str(default)))

    # What is installed.

    def apt_install(self, *packages: str | list[str]) -> Self:
        """Install packages of the distribution: one, several, or a list; `name=version` pins one."""
        return self._append(APT("install", _packages(packages)))

    def apt_remove(self, *packages: str | list[str]) -> Self:
        """Remove packages of the distribution."""
        return self._append(APT("remove", _packages(packages)))

    def pip_install(self, *packages: str | list[str], index_url: str | None = None) -> Self:
        """Install packages of Python: requirements, or options of pip such as `-r requirements.txt`."""
        words = [word for package in _flat(packages) for word in _pip_words(package)]
        if not words:
            raise AssertionError("pip_install needs a package")
        return self._append(PIP([*words, *(["--index-url", index_url] if index_url else [])]))

    def run_command(self, command: str) -> Self:
        """Run a shell command as written, but that requirements such as `torch>=2.4` after `pip install` are quoted."""
        return self._append(RUN(quote_requirements(command)))

    # What is put in.

    def add(
        self,
        source: str,
        dest: str,
        keep_git_dir: bool = False,
        checksum: str | None = None,
        chown: str | None = None,
        chmod: str | None = None,
        exclude: list[str] | None = None,
        build_dir: str | None = None,
    ) -> Self:
        """Add files of the current folder, or from an address; the first two options are for addresses.

        AssertionError when nothing there matches. Inside a built image this does nothing, as the files are in it.
        `exclude` and `build_dir` concern upstream's upload and are accepted only.
        """
        if is_remote():
            return self
        directive = ADD(
            source,
            dest,
            keep_git_dir="true" if keep_git_dir and "://" in source else None,
            checksum=_checked(_CHECKSUM, checksum, "checksum") if "://" in source else None,
            chown=_checked(_OWNER, chown, "owner"),
            chmod=_checked(_MODE, chmod, "mode"),
        )
        if not directive.is_remote and not _exists(source):
            raise AssertionError(f"There is nothing to add at {source!r}")
        return self._append(directive)

    def copy(self, source: str, dest: str, chown: str | None = None, chmod: str | None = None) -> Self:
        """Copy files or folders of the current folder into the image."""
        return self.add(source, dest, chown=chown, chmod=chmod)

    copy_file = copy

    # What it runs as.

    def with_env(self, key: str, value: str) -> Self:
        """Set an environment variable; `$NAME` in its value is replaced."""
        _require(_VARIABLE, key, "environment variable")
        return self._append(ENV(key, str(value)))

    def set_workdir(self, directory: str) -> Self:
        """Change the folder."""
        return self._append(WORKDIR(directory))

    def set_user(self, user: str) -> Self:
        """Change the user."""
        return self._append(USER(user))

    def expose_port(self, port: int) -> Self:
        """Name a port that is listened on."""
        if not 0 < int(port) <= _LAST_PORT:
            raise AssertionError(f"Not a port: {port!r}")
        return self._append(EXPOSE(str(port)))

    def with_healthcheck(
        self,
        command: str | list[str],
        interval: str | float | None = None,
        timeout: str | float | None = None,
        start_period: str | float | None = None,
        retries: int | None = None,
    ) -> Self:
        """Ask with this command whether the container is well; times in seconds, or as `30s`. The last one counts."""
        return self._replace(
            HEALTHCHECK(
                command,
                interval=_duration(interval),
                timeout=_duration(timeout),
                start_period=_duration(start_period),
                retries=retries,
            )
        )

    def with_entrypoint(self, *command: str | list[str]) -> Self:
        """Run this when the container starts: a command line, its words, or a list of them. The last one counts."""
        words = _flat(command)
        return self._replace(ENTRYPOINT(shlex.split(words[0]) if len(words) == 1 else words))

    # What is said of it.

    def with_maintainer(self, maintainer: str) -> Self:
        """Say who looks after it."""
        return self._append(MAINTAINER(maintainer))

    def with_label(self, key: str, value: str) -> Self:
        """Set a label."""
        _require(_LABEL, key, "label")
        return self._append(LABEL(key, str(value)))

    # The same under the names that are in use elsewhere.

    run = run_command
    env = with_env
    with_workdir = set_workdir
    with_user = set_user

    def _append(self, *directives: BaseDirective) -> Self:
        self._directives += directives
        return self

    def _replace(self, directive: BaseDirective) -> Self:
        self._directives = [d for d in self._directives if type(d) is not type(directive)]
        return self._append(directive)


def _exists(pattern: str) -> bool:
    path = Path(pattern)
    return path.exists() or any(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _require(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise AssertionError(f"Not a valid {what}: {value!r}")
    return value


def _checked(pattern: re.Pattern[str], value: str | None, what: str) -> str | None:
    return None if value is None else _require(pattern, value, what)


def _flat(values: tuple[str | list[str], ...]) -> list[str]:
    return [v for value in values for v in ([value] if isinstance(value, str) else value)]


def _packages(packages: tuple[str | list[str], ...]) -> list[str]:
    names = [name for package in _flat(packages) for name in package.split()]
    if not names:
        raise AssertionError("A package is needed")
    return [_require(_PACKAGE, name, "package name") for name in names]


def _pip_words(package: str) -> list[str]:
    """An option and its value are two words; a requirement is one, whatever spaces it has."""
    return shlex.split(package) if package.startswith("-") else [package.strip()]


def _duration(value: str | float | None) -> str | None:
    if value is None or isinstance(value, str):
        return _checked(_DURATION, value, "duration")
    return f"{value:g}s"
