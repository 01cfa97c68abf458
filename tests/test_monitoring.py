"""The configuration of Prometheus and Grafana: valid, and with queries for existing metrics only."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

PROMTOOL = shutil.which("promtool")


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path("deploy/grafana/dashboards").glob("*.json"))]


def queries() -> Iterator[str]:
    for dashboard in dashboards():
        for panel in dashboard["panels"]:
            yield from (target["expr"] for target in panel["targets"])


def series() -> set[str]:
    """Return the names of all series that `/metrics` can contain."""
    from prometheus_client.metrics import MetricWrapperBase

    import chutes.metrics
    import chutes.server.metrics
    import imagegen.metrics

    names = set()
    for module in (chutes.metrics, chutes.server.metrics, imagegen.metrics):
        for value in vars(module).values():
            if isinstance(value, MetricWrapperBase):
                (family,) = value.describe()
                suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
                names |= {family.name + suffix for suffix in suffixes}
    # GPU metrics exist only with a driver, so their names are read from the source.
    source = Path(chutes.server.metrics.__file__).read_text()
    names |= set(re.findall(r'"(chutes_gpu_\w+)"', source))
    return names


def labels_of(name: str) -> set[str]:
    import chutes.metrics
    import chutes.server.metrics
    import imagegen.metrics

    for module in (chutes.metrics, chutes.server.metrics, imagegen.metrics):
        for value in vars(module).values():
            described = value.describe() if hasattr(value, "_labelnames") else []
            if any(name.startswith(family.name) for family in described):
                return {"le", *value._labelnames}
    return set()


def test_the_dashboard_has_queries() -> None:
    assert len(list(queries())) > 20


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_panels_query_existing_series(query: str) -> None:
    asked = set(re.findall(r"\b(?:chutes|imagegen|invocation)_\w+", query))
    assert asked
    assert asked <= series()


@pytest.mark.parametrize("query", [query for query in sorted(set(queries())) if " by (" in query])
def test_panels_group_by_existing_labels(query: str) -> None:
    (by,) = re.findall(r"by \((\w+)\)", query)
    (name,) = re.findall(r"\b(?:chutes|imagegen|invocation)_\w+", query)
    assert by in labels_of(name)


def test_panels_do_not_overlap() -> None:
    for dashboard in dashboards():
        taken = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells


def test_the_dashboard_uses_the_provisioned_datasource() -> None:
    source = yaml.safe_load(Path("deploy/grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][
        0
    ]
    used = {panel["datasource"]["uid"] for dashboard in dashboards() for panel in dashboard["panels"]}
    assert used == {source["uid"]}
    (provider,) = yaml.safe_load(Path("deploy/grafana/provisioning/dashboards/chutes.yml").read_text())["providers"]
    grafana = yaml.safe_load(Path("docker-compose.yml").read_text())["services"]["grafana"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]


def test_prometheus_scrapes_the_server_with_an_api_key() -> None:
    told = yaml.safe_load(Path("docker-compose.yml").read_text())["services"]
    (job,) = yaml.safe_load(Path("deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["server:8000"]}]
    assert "server" in told
    (config,) = told["prometheus"]["configs"]
    assert job["authorization"]["credentials_file"] == config["target"]


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_accepts_the_configuration() -> None:
    command = [str(PROMTOOL), "check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
