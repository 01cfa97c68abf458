import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from chutes.cli import app

pytest.importorskip("ray")
run = CliRunner()


@pytest.fixture
def exportable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "exportable.py").write_text(
        'from chutes.chute import Chute\nchute = Chute(username="a", name="b", image="flux:1")\n'
    )
    yield tmp_path
    sys.modules.pop("exportable", None)


def test_the_manifest_is_printed(exportable: Path) -> None:
    done = run.invoke(app, ["export", "kuberay", "exportable"])
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["kind"] == "RayService"


def test_output_writes_the_manifest_and_the_dockerfile(exportable: Path) -> None:
    done = run.invoke(app, ["export", "kuberay", "exportable", "--image", "mine:2", "--output", "k8s"])
    assert done.exit_code == 0
    manifest = yaml.safe_load((exportable / "k8s" / "rayservice.yaml").read_text())
    pod = manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "mine:2"
    assert "FROM flux:1\n" in (exportable / "k8s" / "Dockerfile").read_text()


@pytest.mark.parametrize(
    ("environment", "output", "message"),
    [
        ({"CHUTES_PORT": "abc"}, "k8s", "CHUTES_PORT is 'abc'"),
        ({"CHUTES_KEYS_FILE": "exportable.py"}, "k8s", "The API keys cannot be read"),
        ({}, "exportable.py/k8s", "Cannot write exportable.py/k8s"),
    ],
)
def test_an_error_is_one_line(
    environment: dict[str, str], output: str, message: str, exportable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run.invoke(app, ["export", "kuberay", "exportable", "--output", output])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_target_is_a_subcommand(exportable: Path) -> None:
    done = run.invoke(app, ["export", "exportable"])
    assert done.exit_code == 2
    assert "No such command" in done.stderr
