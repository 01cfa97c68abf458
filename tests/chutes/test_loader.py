import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chutes.exception import LoadError
from chutes.loader import load_chute, locate, parse_reference

MODULE = """
from chutes.chute import Chute, ChutePack
chute = Chute(username="u", name="default", image="none")
other = Chute(username="u", name="other", image="none")
pack = ChutePack(chute=other)
number = 3
class holder:
    inner = other
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder. Its modules and paths are removed from the interpreter afterwards."""
    before, path = set(sys.modules), sys.path[:]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_chute.py").write_text(MODULE)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "inner.py").write_text(MODULE)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"some_chute", "package", "broken"}:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("some_chute:chute", "default"),
        ("some_chute", "default"),
        ("some_chute:other", "other"),
        ("some_chute:pack", "other"),
        ("some_chute:holder.inner", "other"),
        ("some_chute.py", "default"),
        ("some_chute.py:other", "other"),
        ("./some_chute", "default"),
        ("package.inner:chute", "default"),
        ("package/inner.py", "default"),
    ],
)
def test_valid_references(ref: str, name: str) -> None:
    assert load_chute(ref).name == name


@pytest.mark.parametrize(
    ("ref", "root", "module", "name"),
    [
        ("a.b", ".", "a.b", "chute"),
        ("a.b:other.one", ".", "a.b", "other.one"),
        ("a/b", "a", "b", "chute"),
        ("../x/b:other", "../x", "b", "other"),
        ("b.py", ".", "b", "chute"),
        ("~/b.py", "~", "b", "chute"),
    ],
)
def test_a_reference_is_parsed(
    ref: str, root: str, module: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    source = parse_reference(ref)
    assert (source.root, source.module, source.name) == (Path(root).expanduser().resolve(), module, name)
    assert source.file == (None if ref.startswith("a.b") else source.root / "b.py")
    assert source.entry == f"{module}:{name}"


def test_locating_a_chute_imports_nothing(folder: Path) -> None:
    (folder / "broken.py").write_text("raise ValueError")
    assert [locate(ref).module for ref in ("broken", "broken.py:other")] == ["broken", "broken"]
    assert "broken" not in sys.modules
    for missing in ("missing:chute", "missing.part", "missing.py", "./some_chute.txt"):
        with pytest.raises(LoadError):
            locate(missing)


def test_an_absolute_path_from_another_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "helper.py").write_text("name = 'helped'")
    (folder / "some_chute.py").write_text("import helper\n" + MODULE.replace('"default"', "helper.name"))
    monkeypatch.chdir("/")
    assert load_chute(str(folder / "some_chute.py")).name == "helped"


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("missing.py", "There is no file missing.py. Check the path."),
        ("folder/missing", "There is no file folder/missing. Check the path."),
        ("missing:chute", "There is no module missing in "),
        ("package.missing", "There is no module package.missing in "),
        (
            "some_chute:nothing",
            "some_chute has no chute named nothing. It has some_chute:chute, some_chute:other, some_chute:pack.",
        ),
        ("some_chute:number", "some_chute:number must be a Chute; got an object of type int."),
        (":chute", "is not a module's name"),
        ("", "is not a module's name"),
        ("..:x", "is not a module's name"),
        ("my-chute:chute", "is not a module's name"),
    ],
)
def test_missing_files_modules_and_chutes(ref: str, says: str) -> None:
    with pytest.raises(LoadError) as refused:
        load_chute(ref)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def f(:\n", "is not valid Python: invalid syntax (broken.py:1)."),
        ("x = '\x00'\n", "broken"),
        ("import no_such_thing\n", "ModuleNotFoundError: No module named 'no_such_thing' (broken.py:1)."),
        ("\n\nraise ValueError('two\\nlines')\n", "ValueError: two lines (broken.py:3)."),
        ("import sys; sys.exit(3)\n", "SystemExit: 3 (broken.py:1)."),
        ("from chutes.chute import Chute\nchute = Chute()\n", "TypeError"),
        ("from chutes.chute import NodeSelector\n\nNodeSelector(gpu_count=0)\n", "(broken.py:3)."),
    ],
)
@pytest.mark.parametrize("ref", ["broken.py", "broken:chute"])
def test_files_that_cannot_be_imported(folder: Path, ref: str, source: str, says: str) -> None:
    (folder / "broken.py").write_text(source)
    with pytest.raises(LoadError) as refused:
        load_chute(ref)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "broken" not in sys.modules
