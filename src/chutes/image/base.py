"""The builder of a container image; `str(image)` is its Dockerfile."""

import inspect
import re
import shlex
from pathlib import Path
from typing import Never, Self
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
_NAME_RULE = "Use letters, digits, '-', '_' and '.', and start with a letter or digit."
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
    """A container image, built step by step: each method adds a Dockerfile directive and returns the image.

    `chutes build` builds the image and tags it `username/name:tag`, in lower case. `name` and `tag` consist of letters,
    digits, `-`, `_` and `.`, and start with a letter or digit; otherwise ValueError is raised.

    `base_image` is a shortcut for `from_base`, and `python_version` for `with_python`. `description` is another name of
    `readme`, the text about the image. An unknown argument has no effect and causes a ChutesWarning.

    Methods raise AssertionError for an invalid argument, and ValueError for a value with a line break.
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
        **unknown: Never,
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
        """The image's id: a UUID computed from username, name and tag, in lower case."""
        return self._uid

    @property
    def name(self) -> str:
        """The image's name."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"Invalid image name: {name!r}. {_NAME_RULE}")
        self._name = name

    @property
    def tag(self) -> str:
        """The image's tag, usually its version."""
        return self._tag

    @tag.setter
    def tag(self, tag: str) -> None:
        if not _NAME.fullmatch(tag):
            raise ValueError(f"Invalid image tag: {tag!r}. {_NAME_RULE}")
        self._tag = tag

    def __str__(self) -> str:
        lines: list[str] = []
        previous: BaseDirective | None = None
        for directive in self._directives:
            # Each `run_command` stays a layer of its own, which hadolint's DL3059 would merge.
            separate = ("DL3059",) if isinstance(directive, RUN) and isinstance(previous, RUN) else ()
            if ignore := (*directive.ignore, *separate):
                lines.append(f"# hadolint ignore={','.join(ignore)}")
            lines.append(str(directive))
            previous = directive
        return "\n".join(lines)

    @property
    def sources(self) -> list[str]:
        """The local files, folders and glob patterns that `add` and `copy` name, relative to the current folder."""
        return [d.source for d in self._directives if isinstance(d, ADD) and not d.is_remote]

    # Base image

    def from_base(self, base_image: str) -> Self:
        """Set the base image, such as `nvidia/cuda:12.4.1-runtime-ubuntu22.04`.

        Emits `FROM base_image` as the first line, in place of the default. The last call counts.
        """
        _require(_REFERENCE, base_image, "image reference")
        self._directives = [FROM(base_image), *(d for d in self._directives if not isinstance(d, FROM))]
        return self

    def with_python(self, version: str = "3.10.15") -> Self:
        """Build a version of Python from source and put its `python`, `python3` and `pip` first on the PATH.

        `3.11` means the latest known release of 3.11. Emits `RUN` directives that install the build tools and build
        Python in /opt/python, and `ENV PATH`. The base image must be a Debian or Ubuntu. Raises ValueError for an
        invalid version.
        """
        return self._append(*install_python(version))

    def with_arg(self, name: str, default: str | None = None) -> Self:
        """Declare a build argument, and its default if there is one.

        Emits `ARG name` or `ARG name=default`. Set it with `docker build --build-arg name=value`.
        """
        _require(_VARIABLE, name, "build argument")
        return self._append(ARG(name, None if default is None else str(default)))

    # Packages and commands

    def apt_install(self, *packages: str | list[str]) -> Self:
        """Install Debian packages, given as names or lists of names. `name=version` pins a version.

        Emits one `RUN` directive with `apt-get update`, `apt-get install --no-install-recommends`, and the removal of
        the package lists.
        """
        return self._append(APT("install", _packages(packages)))

    def apt_remove(self, *packages: str | list[str]) -> Self:
        """Remove Debian packages, given as names or lists of names. Emits `RUN apt-get remove -y`."""
        return self._append(APT("remove", _packages(packages)))

    def pip_install(self, *packages: str | list[str], index_url: str | None = None) -> Self:
        """Install Python packages, given as requirements such as `torch>=2.4`, or as options of pip.

        An option and its value are one argument: `"-r requirements.txt"`. Emits `RUN pip install --no-cache-dir`, with
        `--index-url` if given. Requirements are quoted for the shell.
        """
        words = [word for package in _flat(packages) for word in _pip_words(package)]
        if not words:
            raise AssertionError("pip_install() requires at least one package.")
        return self._append(PIP([*words, *(["--index-url", index_url] if index_url else [])]))

    def run_command(self, command: str) -> Self:
        """Run a shell command while the image is built. Emits `RUN command`.

        Several lines become a script that stops at the first error. Requirements such as `torch>=2.4` after
        `pip install` are put in quotes, because the shell would read `>` as a redirection.
        """
        return self._append(RUN(quote_requirements(command)))

    # Files

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
        """Add a file, a folder, or the matches of a glob pattern from the current folder; or the contents of a URL.

        Emits `COPY source dest`, or `ADD source dest` for a URL, a Git repository or a tar archive, which is unpacked.
        `chown` (`user:group`) and `chmod` (`755`) set the owner and the mode. For a URL, `checksum`
        (`sha256:` and 64 hex digits) verifies the download. For a Git repository, `keep_git_dir` keeps its .git folder.

        Raises AssertionError if a local source does not exist. Inside a built image, where `is_remote()` is true, the
        method has no effect, because the image contains the files already. `exclude` and `build_dir` have no effect.
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
            raise AssertionError(f"The image adds {source!r}, which does not exist in {Path.cwd()}.")
        return self._append(directive)

    def copy(self, source: str, dest: str, chown: str | None = None, chmod: str | None = None) -> Self:
        """Copy a file, a folder, or the matches of a glob pattern from the current folder. Same as `add`."""
        return self.add(source, dest, chown=chown, chmod=chmod)

    copy_file = copy

    # Container

    def with_env(self, key: str, value: str) -> Self:
        """Set an environment variable. Emits `ENV key=value`. Docker replaces `$NAME` in the value."""
        _require(_VARIABLE, key, "environment variable")
        return self._append(ENV(key, str(value)))

    def set_workdir(self, directory: str) -> Self:
        """Set the working directory. Emits `WORKDIR directory`."""
        return self._append(WORKDIR(directory))

    def set_user(self, user: str) -> Self:
        """Set the user, by name or number, for the following directives and the container. Emits `USER user`."""
        return self._append(USER(user))

    def expose_port(self, port: int) -> Self:
        """Declare a port that the container listens on, from 1 to 65535. Emits `EXPOSE port`."""
        if not 0 < int(port) <= _LAST_PORT:
            raise AssertionError(f"Port must be from 1 to {_LAST_PORT}; got {port!r}.")
        return self._append(EXPOSE(str(port)))

    def with_healthcheck(
        self,
        command: str | list[str],
        interval: str | float | None = None,
        timeout: str | float | None = None,
        start_period: str | float | None = None,
        retries: int | None = None,
    ) -> Self:
        """Set the command that checks whether the container is healthy. The last call counts.

        Emits `HEALTHCHECK`. A string runs in a shell, a list is run as it is. Times are seconds, or strings such as
        `30s` and `1m30s`. The container is unhealthy after `retries` failures in a row.
        """
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
        """Set the command that the container runs: one command line, or its words. The last call counts.

        Emits `ENTRYPOINT` with a JSON list. `chutes build` adds a `CMD`, so an entrypoint must run its arguments.
        """
        words = _flat(command)
        return self._replace(ENTRYPOINT(shlex.split(words[0]) if len(words) == 1 else words))

    # Metadata

    def with_maintainer(self, maintainer: str) -> Self:
        """Set the maintainer. Emits `LABEL maintainer="…"`."""
        return self._append(MAINTAINER(maintainer))

    def with_label(self, key: str, value: str) -> Self:
        """Set a label. Emits `LABEL key="value"`."""
        _require(_LABEL, key, "label")
        return self._append(LABEL(key, str(value)))

    # Upstream's other names of the same methods

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
        raise AssertionError(f"Invalid {what}: {value!r}.")
    return value


def _checked(pattern: re.Pattern[str], value: str | None, what: str) -> str | None:
    return None if value is None else _require(pattern, value, what)


def _flat(values: tuple[str | list[str], ...]) -> list[str]:
    return [v for value in values for v in ([value] if isinstance(value, str) else value)]


def _packages(packages: tuple[str | list[str], ...]) -> list[str]:
    names = [name for package in _flat(packages) for name in package.split()]
    if not names:
        raise AssertionError("At least one package is required.")
    return [_require(_PACKAGE, name, "package name") for name in names]


def _pip_words(package: str) -> list[str]:
    """Split an option from its value. A requirement stays one word, even if it contains spaces."""
    return shlex.split(package) if package.startswith("-") else [package.strip()]


def _duration(value: str | float | None) -> str | None:
    if value is None or isinstance(value, str):
        return _checked(_DURATION, value, "duration")
    return f"{value:g}s"
