"""A wheel of this package, made from the installed files, so that an image runs the same code as the author."""

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from chutes._extras import DISTRIBUTION

PACKAGES = ("chutes", "imagegen")

_WHEEL = "Wheel-Version: 1.0\nGenerator: chutes\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_SKIP = {"__pycache__"}


def name() -> str:
    """Return the file name of the wheel."""
    return f"{_stem()}-py3-none-any.whl"


def write(folder: Path) -> Path:
    """Write the wheel into a folder, and return its path.

    The same files give the same bytes, so that Docker's layer cache stays valid.
    """
    path = folder / name()
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path_in_wheel, content in _contents():
            # Compressing the bundled model's weights takes seconds and saves little.
            method = zipfile.ZIP_STORED if path_in_wheel.endswith(".safetensors") else zipfile.ZIP_DEFLATED
            wheel.writestr(zipfile.ZipInfo(path_in_wheel), content, method)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{path_in_wheel},sha256={digest},{len(content)}\n")
        path_in_wheel = f"{_stem()}.dist-info/RECORD"
        wheel.writestr(zipfile.ZipInfo(path_in_wheel), "".join([*record, f"{path_in_wheel},,\n"]))
    return path


def _stem() -> str:
    return f"{DISTRIBUTION.replace('-', '_')}-{distribution(DISTRIBUTION).version}"


def _contents() -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each file in the wheel."""
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        root = Path(spec.submodule_search_locations[0])
        for path in sorted(root.rglob("*")):
            if path.is_file() and not _SKIP.intersection(path.parts):
                yield f"{package}/{path.relative_to(root).as_posix()}", path.read_bytes()
    installed = distribution(DISTRIBUTION)
    for file, text in (
        ("METADATA", installed.read_text("METADATA")),
        ("WHEEL", _WHEEL),
        ("entry_points.txt", installed.read_text("entry_points.txt")),
    ):
        yield f"{_stem()}.dist-info/{file}", (text or "").encode()
