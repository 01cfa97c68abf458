"""The log lines of all replicas of a chute, those that are gone included, merged in the order they were written.

Each replica writes its own file on its own node. A file on this machine is read directly, one on another by a task
there.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chutes.deploy.log_files import log_folder, log_name

_CHUNK = 4_000_000  # bytes of one file at a time
_NOT_SHOWN = {"timestamp", "level", "logger", "message", "_ray_timestamp_ns"}


@dataclass(frozen=True, order=True)
class Line:
    """One line of a replica's log."""

    time: str
    replica: str
    level: str = field(compare=False)
    logger: str = field(compare=False)
    message: str = field(compare=False)
    fields: dict[str, Any] = field(compare=False)


def read_files(slug: str, offsets: dict[str, int]) -> dict[str, tuple[int, str]]:
    """On the node where it runs: for each replica's file its new offset and what stands between. Whole lines only."""
    found = {}
    for path in sorted(log_folder().glob(log_name(slug, "*"))):
        replica = path.stem.rpartition("_")[2]
        start = offsets.get(replica, 0)
        with path.open("rb") as file:
            if path.stat().st_size < start:
                start = 0  # the file was begun anew
            file.seek(start)
            text = file.read(_CHUNK)
        whole = text.rfind(b"\n") + 1
        found[replica] = (start + whole, text[:whole].decode("utf-8", "replace"))
    return found


class Reader:
    """Reads what is new, again and again."""

    def __init__(self, slug: str) -> None:
        self._slug = slug
        self._offsets: dict[str, dict[str, int]] = {}

    def read(self) -> list[Line]:
        """The lines since the last call, in order, of all nodes."""
        lines = []
        for node, found in self._ask_nodes():
            offsets = self._offsets.setdefault(node, {})
            for replica, (offset, text) in found.items():
                offsets[replica] = offset
                lines += [line for line in (_parse(replica, each) for each in text.splitlines()) if line]
        return sorted(lines)

    def _ask_nodes(self) -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = ray.get_runtime_context().get_node_id()
        yield here, read_files(self._slug, self._offsets.get(here, {}))
        # One node of each machine: those of the same one share their folder.
        alive = [node for node in ray.nodes() if node["Alive"]]
        machines = {node["NodeManagerAddress"]: node["NodeID"] for node in alive}
        seen_here = {node["NodeManagerAddress"] for node in alive if node["NodeID"] == here}
        others = [node for address, node in machines.items() if address not in seen_here]
        task = ray.remote(read_files)
        asked = {
            node: task.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)
            ).remote(self._slug, self._offsets.get(node, {}))
            for node in others
        }
        for node, reference in asked.items():
            try:
                yield node, ray.get(reference, timeout=10)
            except ray.exceptions.RayError:  # the node is leaving
                continue


def _parse(replica: str, text: str) -> Line | None:
    try:
        said = json.loads(text)
    except ValueError:
        return None
    rest = {key: value for key, value in said.items() if key not in _NOT_SHOWN}
    return Line(
        time=said.get("timestamp", ""),
        replica=replica,
        level=said.get("level", ""),
        logger=said.get("logger", ""),
        message=str(said.get("message", "")),
        fields=rest,
    )
