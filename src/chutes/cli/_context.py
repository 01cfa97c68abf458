"""What `docker build` is given for a chute: its image's directives, this package, and the author's files."""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chutes.cli import _wheel

if TYPE_CHECKING:
    from chutes.image import Image

OURS = "_chute"  # the folder of the context that holds what this module adds
_MARK = "# Written by `chutes build`."
_DRAWS = re.compile(r"^\s*(from|import)\s+(imagegen|chutes\.chute\.template\.diffusion)\b", re.MULTILINE)
_HIDDEN = {".git", ".venv", "__pycache__", "node_modules", "venv"}


class ContextError(Exception):
    """The context cannot be written: one line that says why."""


@dataclass(frozen=True)
class Author:
    """The author's side: the folder that their imports start from, and their files in it."""

    root: Path
    files: tuple[Path, ...]
    entry: str
    """What `chutes run` is given inside: `module:name`."""

    @property
    def draws(self) -> bool:
        """Whether any of the files uses imagegen, which brings torch along."""
        texts = (file.read_text("utf-8", "replace") for file in self.files if file.suffix == ".py")
        return any(_DRAWS.search(text) for text in texts)


def all_of(root: Path) -> list[Path]:
    """Every file under a folder, without environments, caches and what git keeps."""
    return sorted(
        path for path in root.rglob("*") if path.is_file() and not _HIDDEN.intersection(path.relative_to(root).parts)
    )


def dockerfile(image: str, author: Author) -> str:
    """The image's own directives, then the package, then the author's files: what changes most comes last."""
    users = re.findall(r"^USER\s+(\S+)", image, re.MULTILINE)
    extras = "[imagegen]" if author.draws else ""
    wheel = _wheel.name()
    lines = [_MARK, image, ""]
    if users:
        lines.append("USER 0:0")
    lines += [
        f"COPY {OURS}/{wheel} /opt/chutes-wheel/",
        f'RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir "/opt/chutes-wheel/{wheel}{extras}"',
        "WORKDIR /app",
        f"COPY {OURS}/app/ /app/",
    ]
    if users:
        lines += ["# hadolint ignore=DL3066", f"USER {users[-1]}"]  # by name, if that is how the author put it
    command = ["python3", "-m", "chutes", "run", author.entry, "--host", "0.0.0.0", "--port", "8000"]  # noqa: S104 - a container's own address
    lines += ["EXPOSE 8000", f"CMD {json.dumps(command)}"]
    return "\n".join(lines) + "\n"


def write(folder: Path, image: "Image", author: Author) -> None:
    """Write the whole context into a folder; one that an earlier build wrote is replaced.

    What the image adds is looked for in the current folder, as when it was defined.
    """
    if folder.exists() and any(folder.iterdir()):
        existing = folder / "Dockerfile"
        if not existing.is_file() or not existing.read_text("utf-8").startswith(_MARK):
            raise ContextError(f"{folder} holds something else: name another folder with --context")
        shutil.rmtree(folder)
    app = folder / OURS / "app"
    app.mkdir(parents=True)
    for source in image.sources:
        _copy_in(source, Path.cwd(), folder)
    _copy_files(author.files, author.root, app, folder)
    _wheel.write(folder / OURS)
    (folder / "Dockerfile").write_text(dockerfile(str(image), author), encoding="utf-8")


def _copy_in(source: str, root: Path, folder: Path) -> None:
    """Bring what an ADD or COPY names into the context, at the same place."""
    relative = source.removeprefix("./").lstrip("/")
    if ".." in Path(relative).parts:
        raise ContextError(f"{source} is outside of {root}: an image can only add what is inside")
    found = [root] if relative in {"", "."} else sorted(root.glob(relative))
    if not found:
        raise ContextError(f"There is no {source} in {root}, and the image adds it")
    for path in found:
        files = all_of(path) if path.is_dir() else [path]
        _copy_files(files, root, folder, folder)


def _copy_files(files: Iterable[Path], root: Path, into: Path, context: Path) -> None:
    for file in files:
        if not file.is_relative_to(context.resolve()):  # the context may lie inside of what is copied
            target = into / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
