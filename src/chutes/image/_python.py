"""Directives that build a chosen version of Python from source.

A build from source works for any version on any Debian or Ubuntu, includes pip, and allows pip to install packages into
it. The compilers stay in the image: pip needs them for packages without wheels, and Triton needs them at run time.
"""

import re

from chutes.image.directive import APT, ENV, RUN, BaseDirective

PREFIX = "/opt/python"

_LATEST_PATCH = {"3.8": 20, "3.9": 25, "3.10": 19, "3.11": 14, "3.12": 13, "3.13": 12, "3.14": 3}

_BUILD_DEPENDENCIES = (
    "build-essential",
    "ca-certificates",
    "libbz2-dev",
    "libexpat1-dev",
    "libffi-dev",
    "libgdbm-dev",
    "liblzma-dev",
    "libncurses5-dev",
    "libnss3-dev",
    "libreadline-dev",
    "libsqlite3-dev",
    "libssl-dev",
    "uuid-dev",
    "wget",
    "zlib1g-dev",
)


def full_version(version: str) -> str:
    """Return the latest known release of a minor version (`3.11` -> `3.11.14`), or a full version unchanged.

    Raise ValueError for anything else.
    """
    if version in _LATEST_PATCH:
        return f"{version}.{_LATEST_PATCH[version]}"
    if re.fullmatch(r"3\.\d+\.\d+((a|b|rc)\d+)?", version):
        return version
    known = ", ".join(_LATEST_PATCH)
    raise ValueError(f"Python version must be a full version such as 3.11.9, or one of {known}; got {version!r}.")


def install_python(version: str) -> list[BaseDirective]:
    """Return the directives that put `python`, `python3` and `pip` of a version first on the PATH."""
    version = full_version(version)
    folder = re.sub(r"[a-z].*", "", version)  # python.org keeps pre-releases in the folder of their release
    archive = f"https://www.python.org/ftp/python/{folder}/Python-{version}.tgz"
    source = f"/usr/src/Python-{version}"
    build = [
        f"wget -q -O /usr/src/python.tgz {archive}",
        "tar -xzf /usr/src/python.tgz -C /usr/src",
        # The rpath lets the interpreter find its shared library without a change to the loader's configuration.
        f'env -C {source} ./configure --prefix={PREFIX} --enable-shared LDFLAGS="-Wl,-rpath,{PREFIX}/lib"',
        f'make -C {source} -j"$(nproc)"',
        f"make -C {source} install",
        f"ln -s python3 {PREFIX}/bin/python",
        f"ln -sf pip3 {PREFIX}/bin/pip",
        f"rm -rf {source} /usr/src/python.tgz",
    ]
    return [
        APT("install", _BUILD_DEPENDENCIES),
        RUN(" \\\n    && ".join(build)),
        ENV("PATH", f"{PREFIX}/bin:$PATH"),
    ]
