from typing import Any

import jsonschema
import pytest
import yaml

from chutes.chute import Chute, NodeSelector
from chutes.deploy import application, kuberay
from chutes.deploy.package import Package
from chutes.server.auth import Exposed

pytest.importorskip("ray")

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
                        },
                        "additionalProperties": False,
                    },
                },
                "affinity": {"type": "object"},
                "volumes": {"type": "array"},
                "terminationGracePeriodSeconds": {"type": "integer"},
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
            "properties": {"name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}},
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
    chute = Chute(username="myuser", name="FLUX.1-dev", image="registry.example.com/flux:1", **settings)
    package = Package("app:chute", ("app.py",), b"")
    return yaml.safe_load(kuberay.manifest(chute, application.spec_for(chute, package, ray_options={})))


@pytest.mark.parametrize("selector", [None, NodeSelector(gpu_count=2, min_vram_gb_per_gpu=80)])
def test_it_is_a_ray_service(selector):
    told = exported(node_selector=selector)
    jsonschema.validate(told, RAY_SERVICE)
    assert told["metadata"]["name"] == "myuser-flux-1-dev"


@pytest.mark.filterwarnings("ignore")
def test_ray_serve_takes_its_configuration():
    from ray.serve.schema import ServeDeploySchema

    told = exported(
        node_selector=NodeSelector(gpu_count=2),
        max_replicas=5,
        scale_up_threshold=10,
        scale_down_delay=300,
        concurrency=3,
    )
    config = ServeDeploySchema(**yaml.safe_load(told["spec"]["serveConfigV2"]))
    [served] = config.applications
    assert served.import_path == "chutes.deploy.kuberay:application"
    [deployment] = served.deployments
    assert deployment.max_ongoing_requests == 3
    assert deployment.autoscaling_config["max_replicas"] == 5
    assert deployment.ray_actor_options.num_gpus == 2


def test_gpus_with_enough_memory():
    [workers] = exported(node_selector=NodeSelector(gpu_count=2, min_vram_gb_per_gpu=80))["spec"]["rayClusterConfig"][
        "workerGroupSpecs"
    ]
    pod = workers["template"]["spec"]
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    [least] = terms[0]["matchExpressions"][0]["values"]
    assert 46_000 < int(least) < 81_559  # more than a card of 48 GB has, and less than an H100, in MiB
    assert (workers["minReplicas"], workers["maxReplicas"]) == (1, 2)


@pytest.mark.filterwarnings("ignore")
def test_the_application_is_built_in_the_cluster(tmp_path, monkeypatch):
    (tmp_path / "served_there.py").write_text(
        'from chutes.chute import Chute\nchute = Chute(username="a", name="b", image="c", concurrency=7)\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CHUTES_KEYS_FILE", str(tmp_path / "keys.json"))
    with pytest.raises(Exposed):
        kuberay.application({"ref": "served_there:chute"})
    everybody = kuberay.application({"ref": "served_there:chute", "environment": {"CHUTES_NO_AUTH": "true"}})
    assert everybody._bound_deployment.max_ongoing_requests == 7
    monkeypatch.setenv("CHUTES_API_KEYS", "one")
    built = kuberay.application({"ref": "served_there:chute"})
    assert built._bound_deployment.max_ongoing_requests == 7


def test_no_key_is_in_the_manifest(monkeypatch):
    monkeypatch.setenv("CHUTES_API_KEYS", "a-secret-key")
    monkeypatch.setenv("CHUTES_QUEUE_SIZE", "3")
    told = exported()
    assert "a-secret-key" not in str(told)
    assert "CHUTES_QUEUE_SIZE: '3'" in told["spec"]["serveConfigV2"]


def test_the_image_it_needs():
    chute = Chute(username="a", name="b", image="registry.example.com/flux:1")
    assert "FROM registry.example.com/flux:1\n" in kuberay.dockerfile(chute)
    assert '"ray[serve]==' in kuberay.dockerfile(chute)
