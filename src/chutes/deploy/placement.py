"""Which GPUs a node has, as a label that it joins with; and which nodes a NodeSelector accepts, by that label.

A node's label is the kind and memory of its cards, `h100_sxm-80`; of several different ones all, `3090-24.4090-24`. Ray
hands out the GPUs of a node without telling them apart, so a node is accepted only if each of its cards is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chutes._gpus import GPU_MODELS, Gpu
from chutes.chute import NodeSelector
from chutes.exception import Unschedulable

LABEL = "chutes-gpus"
_LONGEST = 63  # characters of a label's value


@dataclass(frozen=True)
class Node:
    """What a node said about itself when it joined."""

    id: str
    address: str
    gpus: tuple[Gpu, ...]
    count: int

    @property
    def what(self) -> str:
        """In words, for people."""
        kinds = ", ".join(f"{gpu.kind} {gpu.vram_gb} GB" for gpu in self.gpus)
        return f"{self.count} x {kinds}" if self.count else "no GPU"


def fake_gpus(text: str) -> list[Gpu]:
    """Cards that are not there, for tests: `h100:80` or `h100:80,4090:24`. ValueError."""
    cards = []
    for card in text.split(","):
        kind, _, vram_gb = card.strip().partition(":")
        if not re.fullmatch(r"[a-z0-9_]+", kind) or not vram_gb.isdigit():
            raise ValueError(f"{card!r} is not a GPU: write kind:memory, as h100:80")
        cards.append(Gpu(kind, int(vram_gb)))
    return cards


def label(gpus: Sequence[Gpu]) -> str:
    """The label's value; empty without a GPU."""
    return ".".join(sorted({str(gpu) for gpu in gpus}))[:_LONGEST].rstrip(".-_")


def nodes(ray_nodes: Sequence[Mapping[str, Any]]) -> list[Node]:
    """What `ray.nodes()` returned, of the nodes that are alive."""
    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            gpus=_parse(node["Labels"].get(LABEL, "")),
            count=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray_nodes
        if node["Alive"]
    ]


def _parse(value: str) -> tuple[Gpu, ...]:
    cards = (card.rpartition("-") for card in value.split(".") if card)
    return tuple(Gpu(kind, int(vram_gb)) for kind, _, vram_gb in cards if vram_gb.isdigit())


def accepts(selector: NodeSelector, node: Node) -> bool:
    """Whether a replica can ever run on this node."""
    return node.count >= selector.gpu_count and bool(node.gpus) and all(_fits(selector, gpu) for gpu in node.gpus)


def _fits(selector: NodeSelector, gpu: Gpu) -> bool:
    return selector.accepts(gpu.kind if gpu.kind in GPU_MODELS else None, gpu.vram_gb)


def place(selector: NodeSelector | None, known: Sequence[Node]) -> dict[str, Any]:
    """Ray's options for one replica. Unschedulable, with what the nodes have, when no node will do.

    Where there is not one GPU in the whole cluster it runs without, as `chutes run` does on such a machine: the chute
    itself knows whether it can.
    """
    if selector is None or not any(node.count for node in known):
        return {"num_cpus": 0}
    fitting = [node for node in known if accepts(selector, node)]
    if not fitting:
        raise Unschedulable(f"No node can run this: it needs {describe(selector)}, and there is {_inventory(known)}")
    # Kinds of the table that are not here yet may join later.
    accepted = {label(node.gpus) for node in fitting}
    accepted |= {f"{name}-{GPU_MODELS[name].vram_gb}" for name in selector.supported_gpus}
    return {
        "num_cpus": 0,
        "num_gpus": selector.gpu_count,
        "label_selector": {LABEL: f"in({','.join(sorted(accepted))})"},
    }


def describe(selector: NodeSelector) -> str:
    """A NodeSelector in words."""
    words = f"{selector.gpu_count} GPU{'s' if selector.gpu_count > 1 else ''} of {selector.min_vram_gb_per_gpu:g} GB"
    if selector.include is not None:
        words += f", one of {', '.join(selector.include)}"
    if selector.exclude:
        words += f", not {', '.join(selector.exclude)}"
    return words


def _inventory(known: Sequence[Node]) -> str:
    return "; ".join(f"{node.what} on {node.address}" for node in known) or "no node"


def has_room(selector: NodeSelector | None, known: Sequence[Node], free: Mapping[str, float]) -> bool:
    """Whether one more replica fits now: then a new version loads beside the old one, else in its place."""
    if selector is None or not any(node.count for node in known):
        return True
    return any(accepts(selector, node) and free.get(node.id, 0) >= selector.gpu_count for node in known)
