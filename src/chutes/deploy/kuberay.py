"""A deployment on Kubernetes: the manifest of a `RayService`, which the KubeRay operator runs, and its Dockerfile.

The author's files are in the image, where `chutes build` puts them into /app. Kubernetes selects nodes with enough GPU
memory by the labels of NVIDIA's GPU feature discovery. API keys come from a Secret, never from the manifest.
"""

import hashlib
import math
from importlib.metadata import version as distribution_version
from typing import TYPE_CHECKING, Any

import yaml

from chutes._gpus import REPORTED_SHARE
from chutes._version import version
from chutes.chute import Chute
from chutes.deploy import application as applications
from chutes.deploy.application import DEPLOYMENT, Spec
from chutes.deploy.cluster import ENVIRONMENT, PROXY_HEALTH_PATH
from chutes.deploy.package import pack
from chutes.image import Image
from chutes.loader import load_chute
from chutes.server import Settings
from chutes.server.auth import check_exposure

if TYPE_CHECKING:
    from ray.serve import Application

# The ports that the operator gives a head node that declares none. It finds the dashboard, to which it sends the
# configuration, and the HTTP proxy by these names.
_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080, "serve": 8000}
_AGENT_PORT = 52365  # of Ray's agent, on each node
_MAX_NAME_LENGTH = 47  # the operator's limit, which leaves room for its suffixes
_MIB_PER_GB = 1024  # for advertised memory
_KEYS = "CHUTES_API_KEYS"
_PROXY_SETTINGS = ("CHUTES_ALLOWED_HOSTS", "CHUTES_CORS_ORIGINS", "CHUTES_MAX_BODY_BYTES", "CHUTES_UPLOAD_TIMEOUT")
_SHM_SIZE = "2Gi"  # for Ray's object store, which uses the disk if it has only a container's default of 64 MB


def application(args: dict[str, Any]) -> "Application":
    """Return the application of the chute in the image. Ray Serve calls this function inside the cluster.

    Raise InsecureSettings if there are no API keys and the manifest does not set CHUTES_NO_AUTH.
    """
    ref, environment = args["ref"], dict(args.get("environment", {}))
    no_auth: dict[str, Any] = {"no_auth": environment["CHUTES_NO_AUTH"]} if "CHUTES_NO_AUTH" in environment else {}
    check_exposure(Settings(host="0.0.0.0", **no_auth))  # noqa: S104 - the address of a pod is public
    chute = load_chute(ref)
    spec = applications.spec_for(chute, pack(ref), ray_options=_ray_options(chute), environment=environment)
    return applications.build(spec)


def image_name(chute: Chute) -> str:
    """Return the name of the image that `dockerfile` builds: that of the chute's image, with the suffix -ray."""
    if isinstance(chute.image, Image):
        return f"{chute.image.username}/{chute.image.name}:{chute.image.tag}-ray".lower()
    return f"{chute.image}-ray"


def dockerfile(chute: Chute) -> str:
    """Return a Dockerfile that adds Ray to the image that `chutes build` makes."""
    ray = distribution_version("ray")
    install = "python3 -m pip install --no-cache-dir"
    return (
        f"# docker build -t {image_name(chute)} .\n"
        f"FROM {image_name(chute).removesuffix('-ray')}\n"
        f'RUN PIP_BREAK_SYSTEM_PACKAGES=1 {install} "ray[serve]=={ray}" pyyaml\n'
    )


def resource_name(slug: str) -> str:
    """Return the slug as a RayService's name, which begins with a letter and is at most 47 characters long."""
    name = slug if slug[:1].isalpha() else f"chute-{slug}"
    if len(name) <= _MAX_NAME_LENGTH:
        return name
    digest = hashlib.sha256(slug.encode()).hexdigest()[:8]  # keeps long names with the same beginning distinct
    return f"{name[: _MAX_NAME_LENGTH - 9].rstrip('-')}-{digest}"


def manifest(chute: Chute, spec: Spec, *, image: str | None = None) -> str:
    """Return the manifest of the RayService as YAML."""
    image = image or image_name(chute)
    service_spec = {
        "serveConfigV2": yaml.safe_dump(_serve_config(chute, spec), sort_keys=False),
        "rayClusterConfig": {
            "rayVersion": distribution_version("ray"),
            "enableInTreeAutoscaling": True,  # adds pods for more replicas
            "headGroupSpec": {
                "rayStartParams": {"num-gpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 - the pod's own address
                "template": _pod("ray-head", image, spec, {}),
            },
            "workerGroupSpecs": [_workers(chute, image, spec)],
        },
    }
    body = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": resource_name(spec.slug), "labels": {"app.kubernetes.io/managed-by": "chutes"}},
        "spec": service_spec,
    }
    header = f"# Written by `chutes export kuberay` {version}. The Dockerfile beside this file builds the image.\n"
    return header + yaml.dump(body, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """A YAML dumper that writes multiline strings as blocks."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _ray_options(chute: Chute) -> dict[str, Any]:
    selector = chute.node_selector
    return {"num_cpus": 0, **({"num_gpus": selector.gpu_count} if selector else {})}


def _serve_config(chute: Chute, spec: Spec) -> dict[str, Any]:
    """Return Ray Serve's own configuration file."""
    return {
        "http_options": {"host": "0.0.0.0", "port": _PORTS["serve"]},  # noqa: S104 - the pod's own address
        "proxy_location": "EveryNode",
        "applications": [
            {
                "name": spec.slug,
                "route_prefix": f"/{spec.slug}",
                "import_path": "chutes.deploy.kuberay:application",
                "args": {
                    "ref": spec.package.entry,
                    "environment": {key: value for key, value in spec.environment.items() if key != _KEYS},
                },
                "deployments": [
                    {"name": DEPLOYMENT, **applications.options(spec), "ray_actor_options": _ray_options(chute)}
                ],
            }
        ],
    }


def _workers(chute: Chute, image: str, spec: Spec) -> dict[str, Any]:
    """Return the worker group: one pod per replica, with the replica's GPUs."""
    selector = chute.node_selector
    template = _pod("ray-worker", image, spec, {"nvidia.com/gpu": selector.gpu_count} if selector else {})
    if selector:
        min_mib = math.floor(selector.min_vram_gb_per_gpu * REPORTED_SHARE * _MIB_PER_GB)
        requirement = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [str(min_mib)]}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}
        template["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    # One pod more than the largest number of replicas, so that a new version can load beside the old one.
    max_pods = spec.autoscaling["max_replicas"] + 1
    return {
        "groupName": "replicas",
        "replicas": spec.autoscaling["min_replicas"] + 1,
        "minReplicas": spec.autoscaling["min_replicas"],
        "maxReplicas": max_pods,
        "rayStartParams": {},
        "template": template,
    }


def _pod(name: str, image: str, spec: Spec, limits: dict[str, Any]) -> dict[str, Any]:
    # Replicas get their settings from the application, but Ray Serve's proxies from the environment of their pod.
    settings = {key: spec.environment[key] for key in _PROXY_SETTINGS if key in spec.environment}
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "workingDir": "/app",
        "env": [
            *(
                {"name": key, "value": value}
                for key, value in {**ENVIRONMENT, **settings, "PYTHONPATH": "/app"}.items()
            ),
            {
                "name": _KEYS,
                "valueFrom": {"secretKeyRef": {"name": f"{spec.slug}-keys", "key": _KEYS, "optional": True}},
            },
        ],
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 - Ray's object store is there
        **_probes(head=name == "ray-head"),
    }
    if name == "ray-head":
        container["ports"] = [{"name": key, "containerPort": port} for key, port in _PORTS.items()]
    if limits:
        container["resources"] = {"limits": limits}
    return {
        "spec": {
            "terminationGracePeriodSeconds": int(spec.drain_grace) + 30,
            "enableServiceLinks": False,  # a service named `chutes` would set CHUTES_PORT
            "containers": [container],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHM_SIZE}}],
        }
    }


def _probes(*, head: bool) -> dict[str, Any]:
    """Return the probes that the operator would add, with HTTP requests instead of `wget`, which few images contain.

    A head node is ready when Ray is; the operator itself checks its HTTP proxy. A worker is ready when its proxy is.
    """
    ray = {"httpGet": {"path": "/api/healthz", "port": _AGENT_PORT}}
    proxy = {"httpGet": {"path": PROXY_HEALTH_PATH, "port": _PORTS["serve"]}}
    times = {"periodSeconds": 5, "timeoutSeconds": 5}
    return {
        "livenessProbe": {**ray, "initialDelaySeconds": 30, **times, "failureThreshold": 120},
        "readinessProbe": {
            **(ray if head else proxy),
            "initialDelaySeconds": 10,
            **times,
            "failureThreshold": 10 if head else 1,
        },
    }
