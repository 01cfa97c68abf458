"""Placement of replicas: the label that describes a node's GPUs, and the nodes that a NodeSelector accepts.

A node's label names the kind and memory of its GPUs, such as `h100_sxm-80`. A node with different GPUs names each kind,
such as `3090-24.4090-24`. Ray assigns any of a node's GPUs to a replica, so a selector must accept all of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chutes._gpus import GPU_MODELS, Gpu
from chutes.chute import NodeSelector
from chutes.exception import Unschedulable

LABEL = "chutes-gpus"
_MAX_LABEL_LENGTH = 63  # Ray's limit


@dataclass(frozen=True)
class Node:
    """A node of the cluster: its id and IP address, the kinds of its GPUs, and their number."""

    id: str
    address: str
    gpus: tuple[Gpu, ...]
    count: int

    @property
    def description(self) -> str:
        """The node's GPUs, such as `2 x h100_sxm 80 GB`."""
        kinds = ", ".join(f"{gpu.kind} {gpu.vram_gb} GB" for gpu in self.gpus)
        return f"{self.count} x {kinds}" if self.count else "no GPU"


def fake_gpus(text: str) -> list[Gpu]:
    """Parse GPUs for tests, such as `h100:80,4090:24`. Raise ValueError for another form."""
    gpus = []
    for part in text.split(","):
        kind, _, vram_gb = part.strip().partition(":")
        if not re.fullmatch(r"[a-z0-9_]+", kind) or not vram_gb.isdigit():
            raise ValueError(f"{part!r} is not a GPU. Write KIND:GB, such as h100:80.")
        gpus.append(Gpu(kind, int(vram_gb)))
    return gpus


def label(gpus: Sequence[Gpu]) -> str:
    """Return the value of a node's label, which is empty without GPUs."""
    return ".".join(sorted({str(gpu) for gpu in gpus}))[:_MAX_LABEL_LENGTH].rstrip(".-_")


def nodes(ray_nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the live nodes in a result of `ray.nodes()`."""
    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            gpus=_parse_label(node["Labels"].get(LABEL, "")),
            count=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray_nodes
        if node["Alive"]
    ]


def cluster_nodes() -> list[Node]:
    """Return the live nodes of the cluster."""
    import ray

    return nodes(ray.nodes())


def free_gpus() -> dict[str, float]:
    """Return the number of free GPUs of each node of the cluster, by node id."""
    import ray

    free: dict[str, Any] = ray._private.state.available_resources_per_node()  # noqa: SLF001 - there is no public API
    return {node: float(each.get("GPU", 0)) for node, each in free.items()}


def _parse_label(value: str) -> tuple[Gpu, ...]:
    parts = (part.rpartition("-") for part in value.split(".") if part)
    return tuple(Gpu(kind, int(vram_gb)) for kind, _, vram_gb in parts if vram_gb.isdigit())


def accepts(selector: NodeSelector, node: Node) -> bool:
    """Return whether a node has the GPUs that a replica needs, free or not."""
    return node.count >= selector.gpu_count and bool(node.gpus) and all(_fits(selector, gpu) for gpu in node.gpus)


def _fits(selector: NodeSelector, gpu: Gpu) -> bool:
    return selector.accepts(gpu.kind if gpu.kind in GPU_MODELS else None, gpu.vram_gb)


def place(selector: NodeSelector | None, known: Sequence[Node]) -> dict[str, Any]:
    """Return Ray's resource options for one replica.

    A cluster without GPUs ignores the selector, and so does `chutes run`. Raise Unschedulable if the cluster has GPUs
    but no node fits.
    """
    if selector is None or not any(node.count for node in known):
        return {"num_cpus": 0}
    fitting = [node for node in known if accepts(selector, node)]
    if not fitting:
        raise Unschedulable(
            f"No node can run this chute. It needs {describe(selector)}; the cluster has {_inventory(known)}. "
            "Add a node that fits, or change the chute's node_selector."
        )
    # A node with another accepted GPU model may join later, so the labels of all accepted models are included.
    accepted = {label(node.gpus) for node in fitting}
    accepted |= {f"{name}-{GPU_MODELS[name].vram_gb}" for name in selector.supported_gpus}
    return {
        "num_cpus": 0,
        "num_gpus": selector.gpu_count,
        "label_selector": {LABEL: f"in({','.join(sorted(accepted))})"},
    }


def describe(selector: NodeSelector) -> str:
    """Return a NodeSelector in words, such as `2 GPUs with at least 80 GB, not b200`."""
    words = f"{selector.gpu_count} GPU{'s' if selector.gpu_count > 1 else ''}"
    words += f" with at least {selector.min_vram_gb_per_gpu:g} GB"
    if selector.include is not None:
        words += f", one of {', '.join(selector.include)}"
    if selector.exclude:
        words += f", not {', '.join(selector.exclude)}"
    return words


def _inventory(known: Sequence[Node]) -> str:
    return "; ".join(f"{node.description} on {node.address}" for node in known) or "no nodes"


def has_room(selector: NodeSelector | None, known: Sequence[Node], free: Mapping[str, float]) -> bool:
    """Return whether one more replica fits now, so that a new version can load beside the old one.

    `free` is the number of free GPUs by node id.
    """
    if selector is None or not any(node.count for node in known):
        return True
    return any(accepts(selector, node) and free.get(node.id, 0) >= selector.gpu_count for node in known)
