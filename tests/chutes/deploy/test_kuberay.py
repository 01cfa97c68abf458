import re
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
import yaml

from chutes.chute import Chute, NodeSelector
from chutes.deploy import application, kuberay
from chutes.deploy.package import Package
from chutes.server.auth import InsecureSettings

pytest.importorskip("ray")

PROBE = {
    "type": "object",
    "required": ["httpGet"],
    "properties": {
        "httpGet": {
            "type": "object",
            "required": ["port"],
            "properties": {"path": {"type": "string"}, "port": {"type": "integer"}},
            "additionalProperties": False,
        },
        **{
            name: {"type": "integer", "minimum": 1}
            for name in ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold")
        },
    },
    "additionalProperties": False,
}
POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers"],
            "properties": {
                "containers": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "image"],
                        "properties": {
                            "name": {"type": "string", "pattern": "^[a-z0-9-]{1,63}$"},
                            "image": {"type": "string"},
                            "workingDir": {"type": "string"},
                            "env": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["name"],
                                    "properties": {
                                        "name": {"type": "string"},
                                        "value": {"type": "string"},
                                        "valueFrom": {"type": "object"},
                                    },
                                    "additionalProperties": False,
                                },
                            },
                            "ports": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["containerPort"],
                                    "properties": {
                                        "name": {"type": "string", "maxLength": 15},
                                        "containerPort": {"type": "integer"},
                                    },
                                    "additionalProperties": False,
                                },
                            },
                            "resources": {"type": "object"},
                            "volumeMounts": {"type": "array"},
                            "livenessProbe": PROBE,
                            "readinessProbe": PROBE,
                        },
                        "additionalProperties": False,
                    },
                },
                "affinity": {"type": "object"},
                "volumes": {"type": "array"},
                "terminationGracePeriodSeconds": {"type": "integer"},
                "enableServiceLinks": {"type": "boolean"},
            },
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
START = {"type": "object", "additionalProperties": {"type": "string"}}

# The fields of a v1 RayService that are used here, their types and which are required, after KubeRay's API reference.
RAY_SERVICE = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayService"},
        "metadata": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47}},
        },
        "spec": {
            "type": "object",
            "required": ["serveConfigV2", "rayClusterConfig"],
            "properties": {
                "serveConfigV2": {"type": "string"},
                "rayClusterConfig": {
                    "type": "object",
                    "required": ["headGroupSpec"],
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "headGroupSpec": {
                            "type": "object",
                            "required": ["template"],
                            "properties": {"rayStartParams": START, "template": POD},
                            "additionalProperties": False,
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["groupName", "minReplicas", "maxReplicas", "template"],
                                "properties": {
                                    "groupName": {"type": "string"},
                                    "replicas": {"type": "integer", "minimum": 0},
                                    "minReplicas": {"type": "integer", "minimum": 0},
                                    "maxReplicas": {"type": "integer", "minimum": 1},
                                    "rayStartParams": START,
                                    "template": POD,
                                },
                                "additionalProperties": False,
                            },
                        },
                    },
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


def exported(**settings: Any) -> dict[str, Any]:
    named = {"username": "myuser", "name": "FLUX.1-dev", "image": "registry.example.com/flux:1"}
    chute = Chute(**{**named, **settings})
    package = Package("app:chute", ("app.py",), b"")
    return yaml.safe_load(kuberay.manifest(chute, application.spec_for(chute, package, ray_options={})))


class Operator:
    """How the KubeRay operator reads a RayService, after its service.go, dashboard client and validation.go."""

    DEFAULT_PORTS: ClassVar = {"client": 10001, "gcs-server": 6379, "dashboard": 8265, "metrics": 8080, "serve": 8000}

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.name = manifest["metadata"]["name"]
        self.cluster = manifest["spec"]["rayClusterConfig"]
        self.head = self.cluster["headGroupSpec"]["template"]["spec"]["containers"][0]

    def validate(self) -> None:
        """Check the name, as `ValidateRayServiceMetadata` does."""
        if len(self.name) > 47:
            raise ValueError("RayService name should be no more than 47 characters")
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", self.name):
            raise ValueError("RayService name should be a valid DNS1035 label")

    def service_ports(self) -> dict[str, int]:
        """Return the ports of the head's service, as `getServicePorts` does: the defaults if the head lists none."""
        listed = self.head.get("ports", [])
        ports = {port.get("name", f"{port['containerPort']}-port"): port["containerPort"] for port in listed}
        return {"metrics": self.DEFAULT_PORTS["metrics"], **(ports or self.DEFAULT_PORTS)}

    def dashboard_url(self) -> str:
        """Return the address for the configuration, as `FetchHeadServiceURL` does."""
        if "dashboard" not in self.service_ports():
            raise LookupError("dashboard port is not found")
        return f"{self.name}-head-svc.default.svc.cluster.local:{self.service_ports()['dashboard']}"

    def serve_service(self) -> list[dict[str, Any]]:
        """Return the ports of the service for clients, as `BuildServeService` does."""
        ports = self.service_ports()
        if "serve" not in ports:
            raise LookupError("Please specify the port named 'serve' in the Ray head container")
        return [{"name": "serve", "port": ports["serve"]}]

    def proxy_port(self, container: dict[str, Any]) -> int:
        """Return the port of a pod's proxy, as `FindContainerPort` does."""
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        return ports.get("serve", self.DEFAULT_PORTS["serve"])


def test_the_operator_finds_its_ports() -> None:
    manifest = exported()
    operator = Operator(manifest)
    operator.validate()
    assert operator.dashboard_url().endswith(":8265")
    assert operator.service_ports() == Operator.DEFAULT_PORTS
    served = yaml.safe_load(manifest["spec"]["serveConfigV2"])["http_options"]["port"]
    assert operator.serve_service() == [{"name": "serve", "port": served}]
    containers = [operator.head, operator.cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]]
    assert [operator.proxy_port(container) for container in containers] == [served, served]
    assert operator.cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "0.0.0.0"


def test_the_rules_of_the_operator_reject_broken_manifests() -> None:
    manifest = exported()
    operator = Operator(manifest)
    operator.head["ports"] = [port for port in operator.head["ports"] if port["name"] not in {"dashboard", "serve"}]
    with pytest.raises(LookupError, match="dashboard"):
        operator.dashboard_url()
    with pytest.raises(LookupError, match="serve"):
        operator.serve_service()
    operator.head["ports"] = []
    assert operator.dashboard_url().endswith(":8265")


@pytest.mark.parametrize("name", ["a" * 63, "x-" * 31, "FLUX.1-dev", "1"])
@pytest.mark.parametrize("username", ["myuser", "4you"])
def test_the_operator_accepts_every_name(username: str, name: str) -> None:
    manifest = exported(username=username, name=name)
    Operator(manifest).validate()
    [served] = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    assert served["route_prefix"].endswith(served["name"]), "a shortened resource name must not change the path"


def test_long_names_stay_distinct() -> None:
    names = {kuberay.resource_name(f"myuser-{'a' * 45}{end}") for end in ("", "b", "c")}
    assert len(names) == 3


def test_service_links_are_disabled() -> None:
    cluster = exported()["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["enableServiceLinks"] is False


def test_probes_use_routes_of_ray() -> None:
    """By default, the operator adds probes that call `wget`, which few images contain."""
    from ray._private import ray_constants
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    operator = Operator(exported())
    workers = operator.cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    agent = {"path": "/api/healthz", "port": ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT}
    assert agent["path"] in PUBLIC_EXACT_PATHS
    for container in (operator.head, workers):
        assert container["livenessProbe"]["httpGet"] == agent
    assert operator.head["readinessProbe"]["httpGet"] == agent
    assert workers["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 8000}


@pytest.mark.parametrize("selector", [None, NodeSelector(gpu_count=2, min_vram_gb_per_gpu=80)])
def test_it_is_a_ray_service(selector: NodeSelector | None) -> None:
    manifest = exported(node_selector=selector)
    jsonschema.validate(manifest, RAY_SERVICE)
    assert manifest["metadata"]["name"] == "myuser-flux-1-dev"


@pytest.mark.filterwarnings("ignore")
def test_ray_serve_accepts_the_configuration() -> None:
    from ray.serve.schema import ServeDeploySchema

    manifest = exported(
        node_selector=NodeSelector(gpu_count=2),
        max_replicas=5,
        scale_up_threshold=10,
        scale_down_delay=300,
        concurrency=3,
    )
    config = ServeDeploySchema(**yaml.safe_load(manifest["spec"]["serveConfigV2"]))
    [served] = config.applications
    assert served.import_path == "chutes.deploy.kuberay:application"
    [deployment] = served.deployments
    assert deployment.max_ongoing_requests == 3
    assert deployment.autoscaling_config["max_replicas"] == 5
    assert deployment.ray_actor_options.num_gpus == 2


def test_gpus_with_enough_memory() -> None:
    [workers] = exported(node_selector=NodeSelector(gpu_count=2, min_vram_gb_per_gpu=80))["spec"]["rayClusterConfig"][
        "workerGroupSpecs"
    ]
    pod = workers["template"]["spec"]
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    [min_mib] = terms[0]["matchExpressions"][0]["values"]
    assert 46_000 < int(min_mib) < 81_559  # more than a card of 48 GB has, and less than an H100, in MiB
    assert (workers["minReplicas"], workers["maxReplicas"]) == (1, 2)


@pytest.mark.filterwarnings("ignore")
def test_the_application_is_built_in_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served_there.py").write_text(
        'from chutes.chute import Chute\nchute = Chute(username="a", name="b", image="c", concurrency=7)\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CHUTES_KEYS_FILE", str(tmp_path / "keys.json"))
    with pytest.raises(InsecureSettings):
        kuberay.application({"ref": "served_there:chute"})
    open_to_all = kuberay.application({"ref": "served_there:chute", "environment": {"CHUTES_NO_AUTH": "true"}})
    assert open_to_all._bound_deployment.max_ongoing_requests == 7
    monkeypatch.setenv("CHUTES_API_KEYS", "one")
    built = kuberay.application({"ref": "served_there:chute"})
    assert built._bound_deployment.max_ongoing_requests == 7


def test_no_key_is_in_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_API_KEYS", "a-secret-key")
    monkeypatch.setenv("CHUTES_QUEUE_SIZE", "3")
    manifest = exported()
    assert "a-secret-key" not in str(manifest)
    assert "CHUTES_QUEUE_SIZE: '3'" in manifest["spec"]["serveConfigV2"]


def test_proxies_get_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHUTES_CORS_ORIGINS", "https://app.example")
    monkeypatch.setenv("CHUTES_QUEUE_SIZE", "3")
    pod = exported()["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    environment = {each["name"]: each.get("value") for each in pod["env"]}
    assert environment["CHUTES_CORS_ORIGINS"] == "https://app.example"
    assert "CHUTES_QUEUE_SIZE" not in environment


def test_the_dockerfile_adds_ray() -> None:
    chute = Chute(username="a", name="b", image="registry.example.com/flux:1")
    assert "FROM registry.example.com/flux:1\n" in kuberay.dockerfile(chute)
    assert '"ray[serve]==' in kuberay.dockerfile(chute)
