"""The unit file for systemd: it is valid, and agrees with the server's exit codes and grace periods."""

import configparser
import getpass
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chutes.server.lifecycle import SHUTDOWN_MARGIN, SHUTDOWN_TIMEOUT
from chutes.server.settings import Settings

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy" / "systemd" / "chutes.service"


def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names of options keep their case
    unit.read(UNIT)
    return unit["Service"]


def test_a_stopping_server_is_not_killed_before_its_requests_have_finished() -> None:
    needed = Settings().drain_grace + SHUTDOWN_TIMEOUT + SHUTDOWN_MARGIN
    assert int(service()["TimeoutStopSec"]) > needed


def test_only_failures_that_a_restart_can_repair_cause_one() -> None:
    assert service()["Restart"] == "on-failure"
    assert service()["RestartPreventExitStatus"].split() == ["1", "2"]


def test_the_command_is_one_of_the_repository() -> None:
    folder = service()["WorkingDirectory"]
    program, command, reference = service()["ExecStart"].split()
    assert (program, command) == (f"{folder}/.venv/bin/chutes", "run")
    assert (ROOT / reference).exists()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text("utf-8").replace(service()["ExecStart"].split()[0], sys.executable)
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("User=chutes", f"User={getpass.getuser()}"), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, ours) == (0, [])
