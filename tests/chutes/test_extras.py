"""Without an optional dependency, every command and chute says in one line which extra to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chutes._extras import import_hint, install_hint

DEPLOY = "Install it with `pip install 'chutes-selfhosted[deploy]'`."
IMAGEGEN = "Install it with `pip install 'chutes-selfhosted[imagegen]'`."


def without(module: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `chutes ARGUMENTS` in a process in which a module cannot be imported."""
    code = f"import sys; sys.modules[{module!r}] = None; from chutes.cli import app; app({list(arguments)!r})"
    environment = {**os.environ, "HOME": str(folder), "RAY_TMPDIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    chute = "from chutes.chute import Chute\nchute = Chute(username='me', name='small', image='me/small:1')\n"
    (tmp_path / "small.py").write_text(chute)
    (tmp_path / "imports.py").write_text(f"import torch\n{chute}")
    (tmp_path / "hook.py").write_text(
        f"{chute}\n@chute.on_startup()\nasync def load(self):\n    import torch.nn.functional\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("module", "arguments", "hint"),
    [
        ("ray", ["deploy", "small"], DEPLOY),
        ("ray", ["chutes", "list"], DEPLOY),
        ("ray", ["chutes", "status", "small"], DEPLOY),
        ("ray", ["chutes", "delete", "small"], DEPLOY),
        ("ray", ["node", "start", "--head"], DEPLOY),
        ("ray", ["export", "kuberay", "small"], DEPLOY),
        ("huggingface_hub", ["download", "a/model"], IMAGEGEN),
    ],
)
def test_a_command_names_the_extra(folder: Path, module: str, arguments: list[str], hint: str) -> None:
    done = without(module, folder, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: This command needs the package {module}, which is not installed. {hint}\n"


def test_a_chute_that_imports_a_missing_module_names_the_extra(folder: Path) -> None:
    done = without("torch", folder, "run", "imports", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: imports cannot be imported: ModuleNotFoundError: ")
    assert done.stderr.endswith(f"(imports.py:1). {IMAGEGEN}\n")
    assert done.stderr.count("\n") == 1


def test_a_hook_that_imports_a_missing_module_names_the_extra(folder: Path) -> None:
    done = without("torch", folder, "run", "hook", "--port", "0")
    assert done.returncode == 3
    [line] = [line for line in done.stderr.splitlines() if "Startup failed" in line]
    assert IMAGEGEN in line


def test_hints_are_for_modules_of_an_extra() -> None:
    assert install_hint("torch.nn") == IMAGEGEN
    assert install_hint("json") == ""
    assert import_hint(ModuleNotFoundError("No module named 'yaml'", name="yaml")) == f" {DEPLOY}"
    assert import_hint(ModuleNotFoundError("No module named 'mine'", name="mine")) == ""
    assert import_hint(ModuleNotFoundError(f"It needs torch. {IMAGEGEN}", name="torch")) == ""
    assert import_hint(ValueError("torch")) == ""
