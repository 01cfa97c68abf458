"""Latencies of `chutes run`: help, probes during work, rejections, timeouts, disconnects and shutdown.

    python -m benchmarks.latency

The tests check that each of these happens, on a machine of any speed. This program measures how long each takes on an
idle machine: median and maximum over the rounds, printed and written to `results/latency.json`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.harness.server import Server, serving
from benchmarks.harness.waiting import wait_for

RESULT = results.RESULTS / "latency.json"
PROBES = 50

SOURCE = """
from pathlib import Path

@chute.on_startup()
async def load(self):
    while not Path("load").exists():
        time.sleep(0.01)

@chute.cord(public_api_path="/block")
async def block(self) -> str:
    while not Path("go").exists():
        time.sleep(0.01)
    return "done"

@chute.cord(public_api_path="/wait")
async def wait(self) -> str:
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return "done"
"""


@dataclass
class Figure:
    """A latency with its target and its measured times, in milliseconds."""

    name: str
    target: float
    times: list[float] = field(default_factory=list)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the duration of the block."""
        began = time.perf_counter()
        yield
        self.times.append((time.perf_counter() - began) * 1000)

    @property
    def median(self) -> float:
        """In milliseconds."""
        return statistics.median(self.times)


FIGURES = {
    "help": Figure("`chutes --help`", 300),
    "loading": Figure("/health while a hook blocks", 50),
    "blocking": Figure("/health while a handler blocks", 50),
    "drawing": Figure("/health while a picture is drawn", 50),
    "full": Figure("429 when the queue is full", 50),
    "late": Figure("504: delay after request_timeout", 100),
    "disconnect": Figure("slot free after its client disconnected", 100),
    "idle": Figure("SIGTERM to exit code 0 when idle", 1500),
}


def measure_help() -> None:
    """Measure `chutes --help`."""
    with FIGURES["help"].measured():
        subprocess.run([sys.executable, "-m", "chutes", "--help"], stdout=subprocess.DEVNULL, check=True)


def measure_probes(server: Server, name: str) -> None:
    """Measure requests to /health."""
    for _ in range(PROBES):
        with FIGURES[name].measured():
            server.get("/health").raise_for_status()


@contextmanager
def occupied(server: Server, folder: Path, path: str, requests: int) -> Iterator[None]:
    """Occupy slots and queue with requests to `path` until the block ends."""

    def taken() -> bool:
        return server.metric("chutes_in_flight") + server.metric("chutes_queue_depth") == requests

    with ThreadPoolExecutor(requests) as pool:
        answers = [pool.submit(server.post, path) for _ in range(requests)]
        try:
            wait_for(taken)
            yield
        finally:
            (folder / "go").touch()
        for answer in answers:
            answer.result()
    (folder / "go").unlink()


def measure_busy_server(folder: Path) -> None:
    """Measure probes during a blocking startup hook and a blocking handler, rejections, a disconnect and shutdown."""
    with serving(folder, SOURCE, wait=False, imported=(), queue_size=3) as server:
        server.wait_for_port()
        measure_probes(server, "loading")
        (folder / "load").touch()
        server.wait_until_ready()
        with occupied(server, folder, "/block", 1):
            measure_probes(server, "blocking")
        with occupied(server, folder, "/wait", 4):
            for _ in range(PROBES):
                with FIGURES["full"].measured():
                    status = server.post("/wait").status_code
                if status != 429:
                    raise RuntimeError(f"The queue is full, but the answer is {status} instead of 429.")
        measure_disconnect(server)
        server.signal()
        with FIGURES["idle"].measured():
            server.wait()


def measure_disconnect(server: Server) -> None:
    """Close the connection of a running request, and measure when its slot is free."""
    client = server.connect()
    client.sendall(
        b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    wait_for(lambda: server.metric("chutes_in_flight") == 1)
    client.close()
    with FIGURES["disconnect"].measured():
        wait_for(lambda: server.metric("chutes_in_flight") == 0)


def measure_timeouts(folder: Path) -> None:
    """Measure timeouts of handlers that never end."""
    timeout = 0.5
    (folder / "load").touch()
    with serving(folder, SOURCE, imported=(), request_timeout=timeout) as server:
        for _ in range(3):
            began = time.perf_counter()
            status = server.post("/wait").status_code
            if status != 504:
                raise RuntimeError(f"The handler never ends, but the answer is {status} instead of 504.")
            FIGURES["late"].times.append((time.perf_counter() - began - timeout) * 1000)


def measure_drawing(folder: Path) -> None:
    """Measure probes while the bundled model draws."""
    body = {"prompt": "a cat", "width": 512, "height": 512, "num_inference_steps": 30}
    ref = str(results.ROOT / "chutes_app.py")
    with serving(folder, "", ref=ref, imported=()) as server, ThreadPoolExecutor(1) as pool:
        server.post("/generate", json={**body, "num_inference_steps": 1})
        picture = pool.submit(server.post, "/generate", json=body)
        while not picture.done():
            with FIGURES["drawing"].measured():
                server.get("/health").raise_for_status()
            time.sleep(0.01)
        picture.result().raise_for_status()


def report() -> dict[str, dict[str, float | bool]]:
    """Print the table, and return the figures."""
    table = Table("", "median ms", "worst ms", "target ms", "", title="Latency")
    for each in FIGURES.values():
        met = "met" if each.median <= each.target else "MISSED"
        table.add_row(each.name, f"{each.median:,.1f}", f"{max(each.times):,.1f}", f"{each.target:,.0f}", met)
    Console().print(table)
    return {
        name: {
            "median_ms": round(each.median, 2),
            "worst_ms": round(max(each.times), 2),
            "target_ms": each.target,
            "met": each.median <= each.target,
        }
        for name, each in FIGURES.items()
    }


def main() -> int:
    """Measure, print and write the result; return 1 if a median misses its target."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    measurements: list[Callable[[Path], None]] = [measure_busy_server, measure_timeouts, measure_drawing]
    for _ in range(given.rounds):
        measure_help()
        for measure in measurements:
            with tempfile.TemporaryDirectory() as folder:
                measure(Path(folder))
    figures = report()
    results.write(given.output, {**results.provenance(), "figures": figures})
    return 0 if all(each["met"] for each in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
