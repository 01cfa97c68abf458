"""Some of the hostile inputs, sent to a cluster: directly to Ray's proxy, and through nginx."""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness.cluster import Cluster, cluster_folder
from benchmarks.harness.nginx import NGINX, nginx
from benchmarks.hostile import page
from benchmarks.hostile.attack import CLOSED, Row, held, once
from benchmarks.hostile.inputs import GROWTH, HEALTH_MS, count_outcomes, find_missed
from benchmarks.hostile.probe import probing
from benchmarks.hostile.rows import ROWS
from benchmarks.hostile.rows.bodies import MIB, prompt
from benchmarks.hostile.server import Process, Server, wait_until
from benchmarks.hostile.wire import HOST, Part, exchange, post
from benchmarks.results import ROOT

SLUG = "benchmark-hostile"
OWN_HOST = f"{SLUG}.localhost"
_VALID_REQUEST = post("/generate", b'{"prompt": "x"}', host=OWN_HOST)
_SETTLED = 0.5  # seconds of probing before and after an attack
_RECOVERED = 120.0  # seconds in which a proxy must serve again after an attack, or replace a killed one


@dataclass(frozen=True)
class Entrance:
    """An address of the cluster, with the processes that a request passes before Ray's proxy."""

    name: str
    server: Server
    processes: tuple[Process, ...] = ()


def _find(section: str, name: str, /, **changes: Any) -> Row:
    """Return a row of `inputs`, addressed to the cluster's chute by its host name."""
    (row,) = (row for row in ROWS if (row.section, row.name) == (section, name))
    return replace(row, build=lambda: _addressed(row.build()), **changes)


def _addressed(parts: Any) -> Iterator[Part]:
    old, new = f"Host: {HOST}\r\n".encode(), f"Host: {OWN_HOST}\r\n".encode()
    for part in parts:
        yield part if isinstance(part, float) else part.replace(old, new, 1)


def rows() -> list[Row]:
    """Return the rows to send."""
    upload = held(17, post("/generate", prompt(MIB), host=OWN_HOST))
    return [
        _find("-", "a valid request"),
        _find("A1", "the same, 64 KB", name=r"NaN, then an unclosed string of `\"`, 64 KB"),
        _find("A5", "100 MB of 12-byte headers", limit=60),
        _find("A5", "one header of 100 MB", limit=60),
        _find("A5", "a request line of 20 KB"),
        # nginx closes these connections without an answer.
        _find("A7", "200 connections that send a header byte a second", expects=CLOSED | {408}, limit=30),
        _find("A7", "a valid upload beside 17 half-sent bodies", attack=upload),
        _find("B1", "two Hosts"),
        _find("C1", "`Upgrade: h2c` with a body"),
        _find("C1", "`Upgrade: websocket` on a POST with a body", limit=10),
    ]


def find_proxy(cluster: Cluster) -> int:
    """Return the process id of Ray's proxy, or 0 if it does not run."""
    for pid in cluster.processes():
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::ProxyActor"):
                return pid
        except OSError:
            continue
    return 0


def _serves(port: int) -> bool:
    return asyncio.run(exchange(port, [_VALID_REQUEST], limit=10)).status == 200


def replace_proxy(cluster: Cluster) -> Process:
    """Kill Ray's proxy and wait for its replacement, which is not affected by the previous attack."""
    old = find_proxy(cluster)
    os.kill(old, signal.SIGKILL)
    if not wait_until(lambda: find_proxy(cluster) not in {0, old} and _serves(cluster.port), _RECOVERED):
        raise RuntimeError(f"Ray did not replace the killed proxy within {_RECOVERED:g} seconds.")
    return Process(find_proxy(cluster))


def measure(cluster: Cluster, entrance: Entrance, row: Row) -> dict[str, Any]:
    """Send a row to a new proxy, and return its figures and missed targets."""
    proxy = replace_proxy(cluster)
    watched, port = (proxy, *entrance.processes), entrance.server.port
    _serves(port)  # nginx connects to the new proxy
    for process in watched:
        process.reset_peak()
    before = sum(process.memory() for process in watched)
    with probing(port, f"/{SLUG}") as probe:
        time.sleep(_SETTLED)
        replies = asyncio.run((row.attack or once)(entrance.server, row, row.build()))
        recovers = wait_until(lambda: _serves(port), _RECOVERED)
        time.sleep(_SETTLED)
    lost = find_proxy(cluster) == 0 or not proxy.exists()
    growth = 0 if lost else sum(process.peak_memory() for process in watched) - before
    missed = find_missed(row, replies, probe.figures, growth, recovers=recovers)
    return {
        "answer": count_outcomes(replies),
        "seconds": round(max(reply.seconds for reply in replies), 3),
        "health_ms": probe.figures["/health"]["worst_ms"],
        "health_failed": probe.figures["/health"]["failed"],
        "prober_late_ms": probe.figures["late_ms"],
        "growth_mib": None if lost else round(growth / MIB, 1),
        "missed": [*missed, "the proxy was lost"] if lost else missed,
    }


@contextmanager
def entrances() -> Iterator[tuple[Cluster, list[Entrance]]]:
    """Serve the chute on a new cluster with nginx in front, until the block ends."""
    with cluster_folder() as cluster:
        cluster.node("--head", "--cluster-port", "0")
        (cluster.folder / "served.py").write_text((ROOT / "benchmarks" / "hostile" / "served.py").read_text())
        cluster.deploy("served")
        direct = Entrance("ray", Server(cluster.nodes[0], cluster.folder / "node0.log", cluster.port))
        with nginx(cluster.folder, cluster.port) as (port, process):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            workers = tuple(Process(int(pid)) for pid in children)
            yield cluster, [direct, Entrance("nginx", Server(process, Path(os.devnull), port), workers)]


def run() -> dict[str, Any]:
    """Measure and print each row at both addresses, and return the result."""
    console = Console()
    measured: list[dict[str, Any]] = []
    with entrances() as (cluster, both):
        for row in rows():
            measured.append({"section": row.section, "input": row.name})
            for entrance in both:
                figures = measured[-1][entrance.name] = measure(cluster, entrance, row)
                growth = "lost" if figures["growth_mib"] is None else f"{figures['growth_mib']:+.1f} MiB"
                console.print(
                    f"{entrance.name:5} {figures['answer']:>20}  {figures['seconds']:8.3f} s  "
                    f"/health {figures['health_ms']:8,.1f} ms  {growth:>12}  {row.section:2} {row.name}"
                    + (f"  [{'; '.join(figures['missed'])}]" if figures["missed"] else ""),
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
    result = page.stamped(
        {
            "targets": {"health_ms": HEALTH_MS, "growth_mib": GROWTH // MIB},
            "met": not any(row["nginx"]["missed"] for row in measured),
            "rows": measured,
        }
    )
    printed = subprocess.run([str(NGINX), "-v"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"nginx/(\S+)", printed)
    result["versions"] |= {"ray": version("ray"), "nginx": found[1] if found else "unknown"}
    return result
