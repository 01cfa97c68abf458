"""The Docker build context of a chute: the directives of its image, this package, and the author's files."""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chutes.cli import _wheel
from chutes.exception import BuildContextError

if TYPE_CHECKING:
    from chutes.image import Image

ADDED_FOLDER = "_chute"  # the folder of the context for the wheel and the author's files
_MARK = "# Written by `chutes build`."
_IMPORTS_IMAGEGEN = re.compile(r"^\s*(from|import)\s+(imagegen|chutes\.chute\.template\.diffusion)\b", re.MULTILINE)
_EXCLUDED_FOLDERS = {".git", ".venv", "__pycache__", "node_modules", "venv"}


@dataclass(frozen=True)
class AuthorFiles:
    """The author's files that go into the image.

    Attributes:
        root: The folder that imports start from.
        files: The files, all inside of `root`.
        entry: The chute's reference inside the image, `module:name`.
    """

    root: Path
    files: tuple[Path, ...]
    entry: str

    @property
    def uses_imagegen(self) -> bool:
        """Whether any of the files imports imagegen, whose extra installs torch."""
        texts = (file.read_text("utf-8", "replace") for file in self.files if file.suffix == ".py")
        return any(_IMPORTS_IMAGEGEN.search(text) for text in texts)


def all_files(root: Path) -> list[Path]:
    """Return every file under a folder, except for virtual environments, caches and Git's own files."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not _EXCLUDED_FOLDERS.intersection(path.relative_to(root).parts)
    )


def dockerfile(image: str, author: AuthorFiles) -> str:
    """Return a Dockerfile that adds the package and the author's files to the directives of an image.

    The order keeps Docker's layer cache useful: the author's files change most often, so they come last.
    """
    users = re.findall(r"^USER\s+(\S+)", image, re.MULTILINE)
    extras = "[imagegen]" if author.uses_imagegen else ""
    wheel = _wheel.name()
    lines = [_MARK, image, ""]
    if users:
        lines.append("USER 0:0")
    lines += [
        f"COPY {ADDED_FOLDER}/{wheel} /opt/chutes-wheel/",
        f'RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir "/opt/chutes-wheel/{wheel}{extras}"',
        "WORKDIR /app",
        f"COPY {ADDED_FOLDER}/app/ /app/",
    ]
    if users:
        lines += ["# hadolint ignore=DL3066", f"USER {users[-1]}"]  # the author may name a user instead of a number
    command = ["python3", "-m", "chutes", "run", author.entry, "--host", "0.0.0.0", "--port", "8000"]  # noqa: S104 - the container's own address
    lines += ["EXPOSE 8000", f"CMD {json.dumps(command)}"]
    return "\n".join(lines) + "\n"


def write(folder: Path, image: "Image", author: AuthorFiles) -> None:
    """Write the build context into a folder. Replace a context of an earlier build.

    Sources of the image's ADD and COPY directives are relative to the current folder, as when the image was defined.
    Raise BuildContextError if a source is missing, or if the folder holds files that no build wrote.
    """
    if folder.exists() and any(folder.iterdir()):
        existing = folder / "Dockerfile"
        if not existing.is_file() or not existing.read_text("utf-8").startswith(_MARK):
            raise BuildContextError(
                f"{folder} holds files that `chutes build` did not write. Name another folder with --context."
            )
        shutil.rmtree(folder)
    app = folder / ADDED_FOLDER / "app"
    app.mkdir(parents=True)
    for source in image.sources:
        _copy_source(source, Path.cwd(), folder)
    _copy_files(author.files, author.root, app, folder)
    _wheel.write(folder / ADDED_FOLDER)
    (folder / "Dockerfile").write_text(dockerfile(str(image), author), encoding="utf-8")


def _copy_source(source: str, root: Path, folder: Path) -> None:
    """Copy the source of an ADD or COPY directive to the same relative path in the context."""
    relative = source.removeprefix("./").lstrip("/")
    if ".." in Path(relative).parts:
        raise BuildContextError(f"{source} is outside of {root}. An image can only add files from inside that folder.")
    found = [root] if relative in {"", "."} else sorted(root.glob(relative))
    if not found:
        raise BuildContextError(f"The image adds {source}, which does not exist in {root}. Correct the path.")
    for path in found:
        files = all_files(path) if path.is_dir() else [path]
        _copy_files(files, root, folder, folder)


def _copy_files(files: Iterable[Path], root: Path, into: Path, context: Path) -> None:
    for file in files:
        if not file.is_relative_to(context.resolve()):  # the context may be inside of the copied folder
            target = into / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
