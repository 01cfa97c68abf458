"""A Python of one's own in an image, whatever the distribution's is.

Built from source, as that works on any Debian or Ubuntu for any version, brings pip, and gives a Python that pip
may install into; the ready-made builds that exist are for one distribution, or are marked as managed by another
tool. The compilers stay in the image: pip needs them for packages without wheels, and Triton at run time.
"""

import re

from chutes.image.directive import APT, ENV, RUN, BaseDirective

PREFIX = "/opt/python"

# The newest release of each line that is known here.
_NEWEST_PATCH = {"3.8": 20, "3.9": 25, "3.10": 19, "3.11": 14, "3.12": 13, "3.13": 12, "3.14": 3}

_BUILD_NEEDS = (
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
    """`3.11` -> the newest known 3.11.z; a full version as it is. ValueError for anything else."""
    if version in _NEWEST_PATCH:
        return f"{version}.{_NEWEST_PATCH[version]}"
    if re.fullmatch(r"3\.\d+\.\d+((a|b|rc)\d+)?", version):
        return version
    known = ", ".join(_NEWEST_PATCH)
    raise ValueError(f"with_python takes a version such as 3.11.9, or one of {known}, not {version!r}")


def install_python(version: str) -> list[BaseDirective]:
    """Directives that put `python`, `python3` and `pip` of this version first on the PATH."""
    version = full_version(version)
    folder = re.sub(r"[a-z].*", "", version)  # release candidates lie beside the release
    archive = f"https://www.python.org/ftp/python/{folder}/Python-{version}.tgz"
    source = f"/usr/src/Python-{version}"
    build = [
        f"wget -q -O /usr/src/python.tgz {archive}",
        "tar -xzf /usr/src/python.tgz -C /usr/src",
        # The path of its library is written into it, so that no loader need be told.
        f'env -C {source} ./configure --prefix={PREFIX} --enable-shared LDFLAGS="-Wl,-rpath,{PREFIX}/lib"',
        f'make -C {source} -j"$(nproc)"',
        f"make -C {source} install",
        f"ln -s python3 {PREFIX}/bin/python",
        f"ln -sf pip3 {PREFIX}/bin/pip",
        f"rm -rf {source} /usr/src/python.tgz",
    ]
    return [
        APT("install", _BUILD_NEEDS),
        RUN(" \\\n    && ".join(build)),
        ENV("PATH", f"{PREFIX}/bin:$PATH"),
    ]
