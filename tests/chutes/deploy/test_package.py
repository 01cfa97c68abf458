import os
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest

from chutes.deploy import package
from chutes.exception import LoadError
from chutes.loader import load_chute

CHUTE = """
from chutes.chute import Chute
{imports}
chute = Chute(username="test", name="packed", image="none")

@chute.on_startup()
async def load(self):
    import inside.deep
    from inside import sibling
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "packed.py").write_text(CHUTE.format(imports="from eager import WORD\n"))
    (tmp_path / "eager.py").write_text("WORD = 1\n")
    (tmp_path / "unused.py").write_text("raise RuntimeError\n")
    inside = tmp_path / "inside"  # without __init__.py, as images/ and examples/ are
    inside.mkdir()
    (inside / "deep.py").write_text("from . import sibling\nimport json, no_such_module\n")
    (inside / "sibling.py").write_text("from .cousin import value\n")
    (inside / "cousin.py").write_text("value = 2\n")
    yield tmp_path
    for name in ("packed", "eager"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("ref", ["packed", "packed:chute", "packed.py", "./packed.py:chute"])
def test_packs_modules_that_are_imported_now_or_later(folder: Path, ref: str) -> None:
    load_chute(ref)
    packed = package.pack(ref)
    assert packed.entry == "packed:chute"
    assert packed.files == ("eager.py", "inside/cousin.py", "inside/deep.py", "inside/sibling.py", "packed.py")
    assert zipfile.ZipFile(BytesIO(packed.content)).namelist() == list(packed.files)


def test_the_same_files_give_the_same_package(folder: Path) -> None:
    load_chute("packed")
    first = package.pack("packed")
    os.utime(folder / "eager.py", (1, 1))
    assert package.pack("packed") == first


def test_a_module_without_a_file_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_chute("packed")
    ops = ModuleType("_ops")
    ops.__file__ = "_ops.py"  # as torch's
    monkeypatch.setitem(sys.modules, "_ops", ops)
    assert "_ops.py" not in package.pack("packed").files


def test_files_that_are_too_large_are_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_chute("packed")
    monkeypatch.setattr(package, "MAX_BYTES", 10)
    with pytest.raises(LoadError, match="can be deployed"):
        package.pack("packed")


def test_unpacked_files_can_be_imported(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_chute("packed")
    packed = package.pack("packed")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    unpacked = package.unpack(packed.content)
    assert sys.path[0] == str(unpacked)
    assert (unpacked / "inside" / "cousin.py").read_text() == "value = 2\n"
    assert package.unpack(packed.content) == unpacked
    assert [each.name for each in unpacked.parent.iterdir()] == [unpacked.name]
    (unpacked / "eager.py").unlink()  # as a cleanup of /tmp does
    package.unpack(packed.content)
    assert (unpacked / "eager.py").is_file()
    unpacked.parent.chmod(0o777)
    with pytest.raises(LoadError, match="Other users can access"):
        package.unpack(packed.content)


def test_a_link_in_place_of_the_users_folder_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (tmp_path / f"chutes-{os.getuid()}").symlink_to(private)
    with pytest.raises(LoadError, match="Other users can access"):
        package.user_folder()
