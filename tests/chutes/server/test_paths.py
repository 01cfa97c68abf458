"""The paths of the server are defined in one module, and configuration files use the same ones."""

import re
from pathlib import Path
from typing import Any

import pytest

from chutes.server.paths import HEALTH, JOBS, METRICS, MONITORING, READY

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("file", "pattern", "path"),
    [
        ("Dockerfile", r"urlopen\('http://127\.0\.0\.1:8000(\S+?)'", HEALTH),
        ("docker-compose.yml", r"urlopen\('http://127\.0\.0\.1:8000(\S+?)'", READY),
        ("deploy/prometheus/prometheus.yml", r"metrics_path: (\S+)", METRICS),
    ],
)
def test_configuration_files_use_the_same_paths(file: str, pattern: str, path: Any) -> None:
    found = re.findall(pattern, (ROOT / file).read_text())
    assert found
    assert set(found) == {path}


def test_other_modules_contain_no_literal_paths() -> None:
    paths = "|".join(map(re.escape, {*MONITORING, JOBS}))
    literal = re.compile(rf"""["']({paths})["'/]""")
    modules = [
        path for package in ("server", "deploy", "cli") for path in (ROOT / "src/chutes" / package).rglob("*.py")
    ]
    assert len(modules) > 30
    found = {str(path) for path in modules if path.name != "paths.py" and literal.search(path.read_text())}
    assert not found
