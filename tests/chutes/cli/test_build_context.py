import subprocess
import sys
from pathlib import Path

import pytest

from chutes.cli import _build_context
from chutes.cli._build_context import AuthorFiles, BuildContextError
from chutes.image import Image


def image(*sources: str) -> Image:
    made = Image(username="me", name="mine", tag="1").from_base("python:3.12-slim")
    for source in sources:
        made.add(source, "/data/")
    return made


@pytest.fixture
def author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuthorFiles:
    monkeypatch.delenv("CHUTES_EXECUTION_CONTEXT", raising=False)
    root = tmp_path / "mine"
    (root / "data/deep").mkdir(parents=True)
    monkeypatch.chdir(root)
    for name in ("data/a.txt", "data/b.txt", "data/c.bin", "a file", "helper.py", "data/deep/d"):
        (root / name).write_text(name)
    (root / ".venv").mkdir()
    (root / ".venv/x.py").touch()
    (root / "mine.py").write_text("import helper\n")
    return AuthorFiles(root, (root / "mine.py", root / "helper.py"), "mine:chute")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".whl"}


def test_the_context_holds_sources_and_modules(author: AuthorFiles, tmp_path: Path) -> None:
    _build_context.write(tmp_path / "context", image("data/*.txt", "./a file", "https://example.org/x.tgz"), author)
    assert names(tmp_path / "context") == {
        "Dockerfile",
        "a file",
        "data/a.txt",
        "data/b.txt",
        "_chute/app/mine.py",
        "_chute/app/helper.py",
    }


def test_a_context_inside_of_a_source_does_not_contain_itself(author: AuthorFiles) -> None:
    folder = author.root / "build/x"
    for _ in range(2):
        _build_context.write(folder, image("."), author)
    assert not (folder / "build").exists()
    assert (folder / "data/deep/d").is_file()
    assert not (folder / ".venv").exists()


def test_a_folder_with_other_files_is_not_overwritten(author: AuthorFiles, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(BuildContextError, match="--context"):
        _build_context.write(tmp_path / "other", image(), author)
    assert names(tmp_path / "other") == {"Dockerfile"}


def test_a_source_outside_of_the_folder_is_refused(author: AuthorFiles, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    with pytest.raises(BuildContextError, match="outside"):
        _build_context.write(tmp_path / "context", image("../secret"), author)


def test_a_missing_source_is_refused(author: AuthorFiles, tmp_path: Path) -> None:
    defined = image("a file")
    (author.root / "a file").unlink()
    with pytest.raises(BuildContextError, match="a file, which does not exist"):
        _build_context.write(tmp_path / "context", defined, author)


def test_only_users_of_imagegen_install_its_extra(author: AuthorFiles) -> None:
    assert "[imagegen]" not in _build_context.dockerfile("FROM x", author)
    (author.root / "helper.py").write_text("def f():\n    from imagegen import models\n")
    assert '.whl[imagegen]"' in _build_context.dockerfile("FROM x", author)


def test_root_installs_and_the_authors_user_runs(author: AuthorFiles) -> None:
    lines = _build_context.dockerfile("FROM x\nUSER me", author).splitlines()
    assert lines.index("USER 0:0") < next(i for i, line in enumerate(lines) if "pip install" in line)
    assert [line for line in lines if line.startswith("USER")][-1] == "USER me"
    assert lines[-1] == ('CMD ["python3", "-m", "chutes", "run", "mine:chute", "--host", "0.0.0.0", "--port", "8000"]')


@pytest.mark.parametrize("user", ["", "\nUSER 10001", "\n# hadolint ignore=DL3066\nUSER me"])
def test_hadolint_finds_nothing(author: AuthorFiles, user: str) -> None:
    tool = Path(sys.executable).parent / "hadolint"
    text = _build_context.dockerfile(f"FROM python:3.12-slim{user}", author)
    done = subprocess.run([tool, "-"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
