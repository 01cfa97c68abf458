"""The log lines of all replicas of a chute, including replicas that have ended, in the order of their timestamps.

Each replica writes a file on its own node. Files on this machine are read directly, those of another by a Ray task.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chutes.deploy.log_files import log_folder, log_name

_CHUNK_SIZE = 4_000_000  # bytes that one call reads of a file
_OWN_FIELDS = {"timestamp", "level", "logger", "message", "_ray_timestamp_ns"}


@dataclass(frozen=True, order=True)
class Line:
    """A line of a replica's log. `fields` holds the other fields of the JSON object."""

    time: str
    replica: str
    level: str = field(compare=False)
    logger: str = field(compare=False)
    message: str = field(compare=False)
    fields: dict[str, Any] = field(compare=False)


def read_files(slug: str, offsets: dict[str, int]) -> dict[str, tuple[int, str]]:
    """Read the new lines of each replica's file on this node.

    Return, by replica id, the offset after the last complete line and the text from the old offset up to there.
    """
    new = {}
    for path in sorted(log_folder().glob(log_name(slug, "*"))):
        replica = path.stem.rpartition("_")[2]
        start = offsets.get(replica, 0)
        with path.open("rb") as file:
            if path.stat().st_size < start:
                start = 0  # the file was rotated
            file.seek(start)
            text = file.read(_CHUNK_SIZE)
        whole = text.rfind(b"\n") + 1
        if not whole and len(text) == _CHUNK_SIZE:
            whole = len(text)  # part of one longer line, which would otherwise hide all that follow
        new[replica] = (start + whole, text[:whole].decode("utf-8", "replace"))
    return new


class Reader:
    """A reader that returns each log line once."""

    def __init__(self, slug: str) -> None:
        self._slug = slug
        self._offsets: dict[str, dict[str, int]] = {}

    def read(self) -> list[Line]:
        """Return the lines of all nodes since the last call, in the order of their timestamps."""
        lines = []
        for node, new in self._read_nodes():
            offsets = self._offsets.setdefault(node, {})
            for replica, (offset, text) in new.items():
                offsets[replica] = offset
                lines += [line for line in (_parse(replica, each) for each in text.splitlines()) if line]
        return sorted(lines)

    def _read_nodes(self) -> Iterator[tuple[str, dict[str, tuple[int, str]]]]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        own_node = ray.get_runtime_context().get_node_id()
        yield own_node, read_files(self._slug, self._offsets.get(own_node, {}))
        # One node of each machine is enough, because nodes of the same machine share the folder.
        alive = [node for node in ray.nodes() if node["Alive"]]
        machines = {node["NodeManagerAddress"]: node["NodeID"] for node in alive}
        local_addresses = {node["NodeManagerAddress"] for node in alive if node["NodeID"] == own_node}
        others = [node for address, node in machines.items() if address not in local_addresses]
        task = ray.remote(read_files)
        pending = {
            node: task.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)
            ).remote(self._slug, self._offsets.get(node, {}))
            for node in others
        }
        for node, reference in pending.items():
            try:
                yield node, ray.get(reference, timeout=10)
            except ray.exceptions.RayError:  # the node is leaving
                continue


def _parse(replica: str, text: str) -> Line | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    rest = {key: value for key, value in record.items() if key not in _OWN_FIELDS}
    return Line(
        time=record.get("timestamp", ""),
        replica=replica,
        level=record.get("level", ""),
        logger=record.get("logger", ""),
        message=str(record.get("message", "")),
        fields=rest,
    )
