"""The same deployment for Kubernetes: a `RayService`, which the KubeRay operator runs, and the image that it needs.

There the author's files are in the image (`chutes build` puts them into /app), and Kubernetes, not a label of ours,
sees to it that the cards have the memory. API keys come from a Secret, never from the manifest.
"""

import math
from importlib.metadata import version as distribution_version
from typing import Any

import yaml

from chutes._version import version
from chutes.chute import Chute
from chutes.chute._gpus import LEAST_REPORTED
from chutes.deploy import application as applications
from chutes.deploy.application import DEPLOYMENT, Spec
from chutes.deploy.cluster import ENVIRONMENT
from chutes.deploy.package import pack
from chutes.image import Image
from chutes.loader import load_chute
from chutes.server import Settings
from chutes.server.auth import check_exposure

_PORTS = {"gcs-server": 6379, "client": 10001, "serve": 8000}
_MIB_PER_GB = 1024  # as cards are sold
_KEYS = "CHUTES_API_KEYS"
_SHM = "2Gi"  # Ray's object store; the 64 MB that containers have would send it to the disk


def application(args: dict[str, Any]) -> Any:
    """Ray Serve calls this inside the cluster: the application of the chute that the image holds. Exposed."""
    ref, environment = args["ref"], dict(args.get("environment", {}))
    said: dict[str, Any] = {"no_auth": environment["CHUTES_NO_AUTH"]} if "CHUTES_NO_AUTH" in environment else {}
    check_exposure(Settings(host="0.0.0.0", **said))  # noqa: S104 - as the manifest says: who lets all in has to say so
    chute = load_chute(ref)
    spec = applications.spec_for(chute, pack(ref), ray_options=_ray_options(chute), environment=environment)
    return applications.build(spec)


def image_name(chute: Chute) -> str:
    """The image to run, as `chutes build` tags it, with what a cluster needs besides."""
    if isinstance(chute.image, Image):
        return f"{chute.image.username}/{chute.image.name}:{chute.image.tag}-ray".lower()
    return f"{chute.image}-ray"


def dockerfile(chute: Chute) -> str:
    """How that image is made from the one that `chutes build` makes."""
    ray = distribution_version("ray")
    install = "python3 -m pip install --no-cache-dir"
    return (
        f"# docker build -t {image_name(chute)} .\n"
        f"FROM {image_name(chute).removesuffix('-ray')}\n"
        f'RUN PIP_BREAK_SYSTEM_PACKAGES=1 {install} "ray[serve]=={ray}" pyyaml\n'
    )


def manifest(chute: Chute, spec: Spec, *, image: str | None = None) -> str:
    """The RayService as YAML."""
    image = image or image_name(chute)
    spec_ = {
        "serveConfigV2": yaml.safe_dump(_serve_config(chute, spec), sort_keys=False),
        "rayClusterConfig": {
            "rayVersion": distribution_version("ray"),
            "enableInTreeAutoscaling": True,  # more replicas need more pods
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
        "metadata": {"name": spec.slug, "labels": {"app.kubernetes.io/managed-by": "chutes"}},
        "spec": spec_,
    }
    head = f"# Written by `chutes export` {version}; the image is made by the Dockerfile beside it.\n"
    return head + yaml.dump(body, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _ray_options(chute: Chute) -> dict[str, Any]:
    selector = chute.node_selector
    return {"num_cpus": 0, **({"num_gpus": selector.gpu_count} if selector else {})}


def _serve_config(chute: Chute, spec: Spec) -> dict[str, Any]:
    """What Ray Serve is told, in the words of its own configuration file."""
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
    """Pods for the replicas: as many as there may be, each with the GPUs of one."""
    selector = chute.node_selector
    template = _pod("ray-worker", image, spec, {"nvidia.com/gpu": selector.gpu_count} if selector else {})
    if selector:
        least = math.floor(selector.min_vram_gb_per_gpu * LEAST_REPORTED * _MIB_PER_GB)
        wanted = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": [str(least)]}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [wanted]}]}
        template["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    # One more than the most: a new version loads beside the old one.
    most = spec.autoscaling["max_replicas"] + 1
    return {
        "groupName": "replicas",
        "replicas": spec.autoscaling["min_replicas"] + 1,
        "minReplicas": spec.autoscaling["min_replicas"],
        "maxReplicas": most,
        "rayStartParams": {},
        "template": template,
    }


def _pod(name: str, image: str, spec: Spec, limits: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "workingDir": "/app",
        "env": [
            *({"name": key, "value": value} for key, value in {**ENVIRONMENT, "PYTHONPATH": "/app"}.items()),
            {
                "name": _KEYS,
                "valueFrom": {"secretKeyRef": {"name": f"{spec.slug}-keys", "key": _KEYS, "optional": True}},
            },
        ],
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 - where Ray keeps its objects
    }
    if name == "ray-head":
        container["ports"] = [{"name": key, "containerPort": port} for key, port in _PORTS.items()]
    if limits:
        container["resources"] = {"limits": limits}
    return {
        "spec": {
            "terminationGracePeriodSeconds": int(spec.drain_grace) + 30,
            "containers": [container],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHM}}],
        }
    }
