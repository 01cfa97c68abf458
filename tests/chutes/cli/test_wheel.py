import subprocess
import sys
import venv
from pathlib import Path

from chutes._version import version
from chutes.cli import _wheel


def test_the_wheel_installs_this_version(tmp_path: Path) -> None:
    wheel = _wheel.write(tmp_path)
    assert wheel.name == f"chutes_selfhosted-{version}-py3-none-any.whl"
    venv.create(tmp_path / "env")
    python = tmp_path / "env/bin/python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(command, capture_output=True, check=True)
    code = "import chutes, imagegen, chutes._version as v; print(chutes.__file__, v.version)"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    file, found = told.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "env")
    assert found == version
    assert (tmp_path / "env/bin/chutes").is_file()
    assert list((tmp_path / "env").glob("lib/*/site-packages/chutes/cli/template.py.txt"))


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert _wheel.write(tmp_path / "a").read_bytes() == _wheel.write(tmp_path / "b").read_bytes()
