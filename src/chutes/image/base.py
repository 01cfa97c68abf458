"""The builder of a container image; `str(image)` is its Dockerfile."""

import inspect
import shlex
from typing import Never, Self
from uuid import NAMESPACE_OID, uuid5

from chutes._warn import warn, warn_unknown
from chutes.image._arguments import (
    MAX_PORT,
    check,
    check_exists,
    check_name,
    duration,
    flatten,
    package_names,
    pip_words,
)
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


class Image:
    """A container image, built step by step: each method adds a Dockerfile directive and returns the image.

    `str(image)` is the Dockerfile. `chutes build` builds it, and tags the image `username/name:tag` in lower case.
    Methods raise AssertionError for an invalid argument, and ValueError for a value with a line break.

    Args:
        username: The owner's name.
        name: The image's name: letters, digits, `-`, `_` and `.`, starting with a letter or digit.
        tag: The image's tag, in the same form as the name.
        readme: A description in Markdown.
        base_image: Same as `from_base(base_image)`. The default is `parachutes/python:3.12`.
        python_version: Same as `with_python(python_version)`.
        description: Alias of `readme`.
        unknown: Unknown arguments. They have no effect and cause a ChutesWarning. Type checkers reject them.

    Raises:
        ValueError: The name or the tag is invalid.
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
        """The image's ID: a UUID computed from username, name and tag, in lower case."""
        return self._uid

    @property
    def name(self) -> str:
        """The image's name."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = check_name("name", name)

    @property
    def tag(self) -> str:
        """The image's tag, usually its version."""
        return self._tag

    @tag.setter
    def tag(self, tag: str) -> None:
        self._tag = check_name("tag", tag)

    def __str__(self) -> str:
        lines: list[str] = []
        previous: BaseDirective | None = None
        for directive in self._directives:
            # hadolint's DL3059 asks to merge consecutive RUN directives, but each `run_command` is a layer of its own.
            consecutive_runs = isinstance(directive, RUN) and isinstance(previous, RUN)
            if rules := (*directive.ignored_rules, *(("DL3059",) if consecutive_runs else ())):
                lines.append(f"# hadolint ignore={','.join(rules)}")
            lines.append(str(directive))
            previous = directive
        return "\n".join(lines)

    @property
    def sources(self) -> list[str]:
        """The local files, folders and glob patterns that `add` and `copy` name, relative to the current folder."""
        return [d.source for d in self._directives if isinstance(d, ADD) and not d.is_remote]

    # Base image

    def from_base(self, base_image: str) -> Self:
        """Set the base image: emit `FROM base_image` as the first directive. The last call wins.

        Args:
            base_image: An image reference, such as `nvidia/cuda:12.4.1-runtime-ubuntu22.04`.
        """
        check("image reference", base_image)
        self._directives = [FROM(base_image), *(d for d in self._directives if not isinstance(d, FROM))]
        return self

    def with_python(self, version: str = "3.10.15") -> Self:
        """Build Python from source, and put its `python`, `python3` and `pip` first on the PATH.

        Emits `RUN` directives that install the build tools and build Python in /opt/python, and an `ENV PATH`
        directive. The base image must be Debian or Ubuntu.

        Args:
            version: A full version such as `3.11.9`, or a minor version such as `3.11` for its latest known release.

        Raises:
            ValueError: The version is invalid or unknown.
        """
        return self._append(*install_python(version))

    def with_arg(self, name: str, default: str | None = None) -> Self:
        """Declare a build argument: emit `ARG name` or `ARG name=default`.

        Args:
            name: The argument's name: letters, digits and `_`. Set it with `docker build --build-arg name=value`.
            default: The value without a `--build-arg`.
        """
        check("build argument", name)
        return self._append(ARG(name, None if default is None else str(default)))

    # Packages and commands

    def apt_install(self, *packages: str | list[str]) -> Self:
        """Install Debian packages: emit one `RUN` directive.

        The directive updates the package lists, installs the packages and deletes the lists.

        Args:
            packages: Package names, or lists of them. `name=version` pins a version.
        """
        return self._append(APT("install", package_names(packages)))

    def apt_remove(self, *packages: str | list[str]) -> Self:
        """Remove Debian packages: emit `RUN apt-get remove -y ...`.

        Args:
            packages: Package names, or lists of them.
        """
        return self._append(APT("remove", package_names(packages)))

    def pip_install(self, *packages: str | list[str], index_url: str | None = None) -> Self:
        """Install Python packages: emit `RUN pip install --no-cache-dir ...`, with the requirements in quotes.

        Args:
            packages: Requirements such as `torch>=2.4`, options of pip such as `-r requirements.txt`, or lists of them.
                An option and its value are one string.
            index_url: The package index to use in place of PyPI.
        """
        return self._append(PIP([*pip_words(packages), *(["--index-url", index_url] if index_url else [])]))

    def run_command(self, command: str) -> Self:
        """Run a shell command while the image is built: emit `RUN command`.

        Several lines become a script that stops at the first error. Requirements after `pip install`, such as
        `torch>=2.4`, are put in quotes, because the shell would read `>` as a redirection.

        Args:
            command: One or several lines of shell code.
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
        """Add local files, or the contents of a URL: emit `COPY source dest` or `ADD source dest`.

        `ADD` is used for a URL, for a Git repository, and for a tar archive, which Docker unpacks. Where the
        chute is served (`is_remote()` is true), this method has no effect: the files may exist only in the image.

        Args:
            source: A file, a folder or a glob pattern, relative to the current folder; or a URL.
            dest: The path in the image.
            keep_git_dir: Keep the `.git` folder of a Git repository.
            checksum: The expected checksum of a URL's contents, `sha256:` and 64 hex digits.
            chown: The owner of the files, such as `user:group`.
            chmod: The mode of the files, such as `755`.
            exclude: No effect. Every file of the source is added.
            build_dir: No effect. Docker's build context is the folder that `chutes build` writes.

        Raises:
            AssertionError: The local source does not exist.
        """
        if is_remote():
            return self
        for name, value in {"exclude": exclude, "build_dir": build_dir}.items():
            if value:
                warn(f"Image.add: {name}={value!r} has no effect.")
        directive = ADD(
            source,
            dest,
            keep_git_dir="true" if keep_git_dir and "://" in source else None,
            checksum=check("checksum", checksum) if "://" in source else None,
            chown=check("owner", chown),
            chmod=check("mode", chmod),
        )
        if not directive.is_remote:
            check_exists(source)
        return self._append(directive)

    def copy(self, source: str, dest: str, chown: str | None = None, chmod: str | None = None) -> Self:
        """Copy local files. Same as `add`, without the options for URLs.

        Args:
            source: A file, a folder or a glob pattern, relative to the current folder.
            dest: The path in the image.
            chown: The owner of the files, such as `user:group`.
            chmod: The mode of the files, such as `755`.
        """
        return self.add(source, dest, chown=chown, chmod=chmod)

    copy_file = copy

    # Container

    def with_env(self, key: str, value: str) -> Self:
        """Set an environment variable: emit `ENV key=value`.

        Args:
            key: The variable's name: letters, digits and `_`.
            value: Its value, in which Docker replaces `$NAME` by another variable.
        """
        check("environment variable", key)
        return self._append(ENV(key, str(value)))

    def set_workdir(self, directory: str) -> Self:
        """Set the working directory of the following directives and of the container: emit `WORKDIR directory`.

        Args:
            directory: A path in the image, which Docker creates.
        """
        return self._append(WORKDIR(directory))

    def set_user(self, user: str) -> Self:
        """Set the user of the following directives and of the container: emit `USER user`.

        Args:
            user: A name or number, optionally with a group, such as `1000:1000`.
        """
        return self._append(USER(user))

    def expose_port(self, port: int) -> Self:
        """Declare a port that the container listens on: emit `EXPOSE port`.

        Args:
            port: A number from 1 to 65535.
        """
        if not 0 < int(port) <= MAX_PORT:
            raise AssertionError(f"Image port must be from 1 to {MAX_PORT}; got {port!r}.")
        return self._append(EXPOSE(str(port)))

    def with_healthcheck(
        self,
        command: str | list[str],
        interval: str | float | None = None,
        timeout: str | float | None = None,
        start_period: str | float | None = None,
        retries: int | None = None,
    ) -> Self:
        """Set the command that checks whether the container is healthy: emit `HEALTHCHECK`. The last call wins.

        Args:
            command: A shell command, or the words of a command that runs without a shell.
            interval: The time between checks, in seconds or as a string such as `1m30s`.
            timeout: The time after which a check fails.
            start_period: The time after the start in which failures do not count.
            retries: The number of consecutive failures that make the container unhealthy.
        """
        return self._replace(
            HEALTHCHECK(
                command,
                interval=duration(interval),
                timeout=duration(timeout),
                start_period=duration(start_period),
                retries=retries,
            )
        )

    def with_entrypoint(self, *command: str | list[str]) -> Self:
        """Set the command that the container runs: emit `ENTRYPOINT`. The last call wins.

        `chutes build` adds a `CMD` that serves the chute, and Docker appends it to the entrypoint. So the entrypoint
        must run its arguments.

        Args:
            command: One command line, its words, or a list of words.
        """
        words = flatten(command)
        return self._replace(ENTRYPOINT(shlex.split(words[0]) if len(words) == 1 else words))

    # Metadata

    def with_maintainer(self, maintainer: str) -> Self:
        """Set the maintainer: emit `LABEL maintainer="..."`.

        Args:
            maintainer: A name or an email address.
        """
        return self._append(MAINTAINER(maintainer))

    def with_label(self, key: str, value: str) -> Self:
        """Set a label: emit `LABEL key="value"`.

        Args:
            key: The label's name, in lower case with `.` or `-` between its parts.
            value: Its value.
        """
        check("label", key)
        return self._append(LABEL(key, str(value)))

    # Aliases that code for the hosted platform uses

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
