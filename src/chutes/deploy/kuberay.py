"""The same deployment for Kubernetes: a `RayService`, which the KubeRay operator runs, and the image that it needs.

There the author's files are in the image (`chutes build` puts them into /app), and Kubernetes, not a label of ours,
sees to it that the cards have the memory. API keys come from a Secret, never from the manifest.
"""

import hashlib
import math
from importlib.metadata import version as distribution_version
from typing import Any

import yaml

from chutes._gpus import REPORTED_SHARE
from chutes._version import version
from chutes.chute import Chute
from chutes.deploy import application as applications
from chutes.deploy.application import DEPLOYMENT, Spec
from chutes.deploy.cluster import ENVIRONMENT
from chutes.deploy.package import pack
from chutes.image import Image
from chutes.loader import load_chute
from chutes.server import Settings
from chutes.server.auth import check_exposure

# All that the operator would give a head without ports. It adds none but `metrics` to a head that has some, and finds
# the dashboard, to which it sends the configuration, and the proxy by these names.
_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080, "serve": 8000}
_AGENT_PORT = 52365  # of Ray's agent on each node
_NAME_LENGTH = 47  # the operator refuses longer ones, to have room for suffixes
_MIB_PER_GB = 1024  # as cards are sold
_KEYS = "CHUTES_API_KEYS"
_PROXY_SETTINGS = ("CHUTES_ALLOWED_HOSTS", "CHUTES_CORS_ORIGINS", "CHUTES_MAX_BODY_BYTES", "CHUTES_UPLOAD_TIMEOUT")
_SHM = "2Gi"  # Ray's object store; the 64 MB that containers have would send it to the disk


def application(args: dict[str, Any]) -> Any:
    """Ray Serve calls this inside the cluster: the application of the chute that the image holds. InsecureSettings."""
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


def resource_name(slug: str) -> str:
    """Return the slug as a RayService's name, which begins with a letter and is at most 47 characters long."""
    name = slug if slug[:1].isalpha() else f"chute-{slug}"
    if len(name) <= _NAME_LENGTH:
        return name
    digest = hashlib.sha256(slug.encode()).hexdigest()[:8]  # two long names with the same beginning stay two
    return f"{name[: _NAME_LENGTH - 9].rstrip('-')}-{digest}"


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
        "metadata": {"name": resource_name(spec.slug), "labels": {"app.kubernetes.io/managed-by": "chutes"}},
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
        least = math.floor(selector.min_vram_gb_per_gpu * REPORTED_SHARE * _MIB_PER_GB)
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
    # Replicas get the settings from the application, Ray Serve's proxies from their pod.
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
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 - where Ray keeps its objects
        **_probes(head=name == "ray-head"),
    }
    if name == "ray-head":
        container["ports"] = [{"name": key, "containerPort": port} for key, port in _PORTS.items()]
    if limits:
        container["resources"] = {"limits": limits}
    return {
        "spec": {
            "terminationGracePeriodSeconds": int(spec.drain_grace) + 30,
            "enableServiceLinks": False,  # a service named `chutes` would set CHUTES_PORT, one named `ray` RAY_PORT
            "containers": [container],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHM}}],
        }
    }


def _probes(*, head: bool) -> dict[str, Any]:
    """What the operator would add, with its times, but without the `wget` that few images have.

    A head is ready when Ray is; the operator itself asks whether its proxy takes requests. A worker is ready when its
    proxy does.
    """
    ray = {"httpGet": {"path": "/api/healthz", "port": _AGENT_PORT}}
    proxy = {"httpGet": {"path": "/-/healthz", "port": _PORTS["serve"]}}
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
