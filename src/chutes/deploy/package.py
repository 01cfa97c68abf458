"""The author's files, on their way into the cluster: the chute's module and whatever it imports from its folder.

They travel inside the deployment itself, so that a replica started tomorrow on a node that joined today has them,
whether or not the machine that deployed still exists.
"""

import ast
import hashlib
import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chutes.exception import LoadError
from chutes.loader import Source, parse

MOST = 16 * 1024 * 1024  # bytes; the deployment's description holds them, and that is no place for weights

_HIDDEN = {".git", ".venv", "__pycache__", "node_modules", "site-packages", "venv"}


@dataclass(frozen=True)
class Package:
    """Files as a zip, and what of them is the chute: `module:name`."""

    entry: str
    files: tuple[str, ...]
    content: bytes


def pack(ref: str) -> Package:
    """The files behind a reference whose chute has been loaded already. LoadError when they are too large."""
    source = parse(ref)
    root = source.root
    files = sorted(files_of(source))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            # Without its date: the same files are the same package.
            archive.writestr(zipfile.ZipInfo(file.relative_to(root).as_posix()), file.read_bytes())
    if buffer.tell() > MOST:
        raise LoadError(f"The chute's files are {buffer.tell() >> 20} MiB: more than {MOST >> 20} MiB are not shipped.")
    names = tuple(file.relative_to(root).as_posix() for file in files)
    return Package(source.entry, names, buffer.getvalue())


def files_of(source: Source) -> set[Path]:
    """The chute's module, which has been loaded, and whatever it imports from its folder, now or in a hook later."""
    return _imported(source.root) | _named_in_imports(source.root, source.module)


def _imported(root: Path) -> set[Path]:
    """What this process has imported from the folder: the chute's own module for one."""
    modules = (module for name, module in list(sys.modules.items()) if name != "__main__")
    paths = (getattr(module, "__file__", None) for module in modules)
    return {path for path in (Path(each).resolve() for each in paths if each) if _is_theirs(path, root)}


def _named_in_imports(root: Path, module: str) -> set[Path]:
    """What the folder's modules would import later: a startup hook's imports have not happened yet."""
    found: set[Path] = set()
    names = [module]
    while names:
        for file in _module_files(root, names.pop()):
            if file not in found and _is_theirs(file, root):
                found.add(file)
                names += _imports(file, root)
    return found


def _module_files(root: Path, module: str) -> Iterator[Path]:
    """A module's file and those of the packages around it; none if it is not in the folder."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        here = root.joinpath(*parts[:depth])
        for file in (here.with_suffix(".py"), here / "__init__.py"):
            if file.is_file():
                yield file.resolve()


def _imports(file: Path, root: Path) -> list[str]:
    """Every module that a file names in an import, those inside of functions included."""
    package = file.relative_to(root).parent.parts
    names = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            # What is imported from a package may be a module itself.
            names += [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
    return [name for name in names if name]


def _is_theirs(path: Path, root: Path) -> bool:
    if path.suffix != ".py" or not path.is_relative_to(root) or path.is_relative_to(sys.prefix):
        return False
    if not path.is_file():
        return False  # torch has modules whose `__file__` is but a name
    inside = path.relative_to(root).parts
    ours = Path(__file__).resolve().parents[2]  # src, in a checkout: what is installed is not shipped
    return not _HIDDEN.intersection(inside) and not path.is_relative_to(ours)


def own_folder() -> Path:
    """A folder of this user's for what all their chutes on this machine share. LoadError if others can write there."""
    folder = Path(tempfile.gettempdir()) / f"chutes-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise LoadError(f"{folder} is not this user's alone: remove it.")
    return folder


def unpack(content: bytes) -> Path:
    """Put the files where they can be imported from, once per content and machine; the folder. LoadError."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        folder = own_folder() / hashlib.sha256(content).hexdigest()[:16]
        if not all((folder / name).is_file() for name in archive.namelist()):  # or no more, after a clean-up
            fresh = Path(tempfile.mkdtemp(dir=folder.parent))
            archive.extractall(fresh)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                fresh.rename(folder)
            except OSError:  # another replica was faster
                shutil.rmtree(fresh)
    sys.path.insert(0, str(folder))
    return folder
