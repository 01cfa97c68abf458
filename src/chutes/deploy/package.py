"""The author's files that replicas need: the chute's module, and the modules of its folder that it imports.

They are part of the deployment. So a replica on a node that joins later gets them too, even if the machine that
deployed the chute is gone.
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
from chutes.loader import Source, parse_reference

MAX_BYTES = 16 * 1024 * 1024
"""The limit for packed files. The cluster keeps them in memory, so they must not include model weights."""

_EXCLUDED_FOLDERS = {".git", ".venv", "__pycache__", "node_modules", "site-packages", "venv"}


@dataclass(frozen=True)
class Package:
    """The author's files as a zip archive.

    Attributes:
        entry: The reference to the chute in the archive, `module:name`.
        files: The paths in the archive.
        content: The archive.
    """

    entry: str
    files: tuple[str, ...]
    content: bytes


def pack(ref: str) -> Package:
    """Pack the files of a chute that this process has loaded. Raise LoadError if they are too large."""
    source = parse_reference(ref)
    root = source.root
    files = sorted(files_of(source))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            # Without timestamps, so that the same files give the same package.
            archive.writestr(zipfile.ZipInfo(file.relative_to(root).as_posix()), file.read_bytes())
    if buffer.tell() > MAX_BYTES:
        raise LoadError(
            f"The chute's files take {buffer.tell() >> 20} MiB, but at most {MAX_BYTES >> 20} MiB can be deployed. "
            "Move data out of the modules that the chute imports."
        )
    names = tuple(file.relative_to(root).as_posix() for file in files)
    return Package(source.entry, names, buffer.getvalue())


def files_of(source: Source) -> set[Path]:
    """Return the files of a loaded chute: its module, and the modules of its folder that it imports now or later."""
    return _imported_files(source.root) | _files_of_imports(source.root, source.module)


def _imported_files(root: Path) -> set[Path]:
    """Return the files of a folder that this process has imported, which include the chute's module."""
    modules = (module for name, module in list(sys.modules.items()) if name != "__main__")
    paths = (getattr(module, "__file__", None) for module in modules)
    return {path for path in (Path(each).resolve() for each in paths if each) if _is_authors_file(path, root)}


def _files_of_imports(root: Path, module: str) -> set[Path]:
    """Return the files that import statements name. Imports inside of functions may not have run yet."""
    found: set[Path] = set()
    names = [module]
    while names:
        for file in _module_files(root, names.pop()):
            if file not in found and _is_authors_file(file, root):
                found.add(file)
                names += _imports(file, root)
    return found


def _module_files(root: Path, module: str) -> Iterator[Path]:
    """Yield the files of a module and its parent packages. Yield nothing if the module is not in the folder."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        base = root.joinpath(*parts[:depth])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                yield file.resolve()


def _imports(file: Path, root: Path) -> list[str]:
    """Return every module that a file's import statements name, including those inside of functions."""
    package = file.relative_to(root).parent.parts
    names = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            # A name that is imported from a package may be a module.
            names += [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
    return [name for name in names if name]


def _is_authors_file(path: Path, root: Path) -> bool:
    if path.suffix != ".py" or not path.is_relative_to(root) or path.is_relative_to(sys.prefix):
        return False
    if not path.is_file():
        return False  # torch has modules whose `__file__` is not a path
    parts = path.relative_to(root).parts
    this_package = Path(__file__).resolve().parents[2]  # every node has it installed; in a checkout, this is src
    return not _EXCLUDED_FOLDERS.intersection(parts) and not path.is_relative_to(this_package)


def user_folder() -> Path:
    """Return the temporary folder for all chutes of this user. Raise LoadError if other users can access it."""
    folder = Path(tempfile.gettempdir()) / f"chutes-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()  # a link that another user made could lead to any folder of this user
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise LoadError(f"Other users can access {folder}. Remove it and run the command again.")
    return folder


def unpack(content: bytes) -> Path:
    """Extract packed files into a folder of their own, add the folder to `sys.path`, and return it.

    Replicas with the same files on one machine share the folder. Raise LoadError as `user_folder` does.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        folder = user_folder() / hashlib.sha256(content).hexdigest()[:16]
        if not all((folder / name).is_file() for name in archive.namelist()):  # a cleanup of /tmp may have removed some
            temporary = Path(tempfile.mkdtemp(dir=folder.parent))
            archive.extractall(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                temporary.rename(folder)
            except OSError:  # another replica extracted the same files meanwhile
                shutil.rmtree(temporary)
    sys.path.insert(0, str(folder))
    return folder
