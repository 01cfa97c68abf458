"""Compare the fast path of two checkouts on one GPU: `python -m benchmarks.flux.compare OLD NEW`.

Each checkout runs in a process of its own, with the same random weights of the full FLUX.1-dev architecture. The two
processes take turns, so that the GPU's temperature and clock are the same for both. The report shows for each precision
whether the outputs have equal bits, whether a step launches the same kernels in the same order, and the ratio of times.
The exit code is 1 if bits or kernels differ, or if a ratio is above 1.005.

Both checkouts need the interface of this version. Takes three minutes and 100 GB of GPU memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from benchmarks import results
from imagegen.settings import Precision

ROUNDS = 6
TOLERANCE = 1.005  # new to old, of a median time


class Checkout:
    """The fast path of one checkout, in a process that runs `benchmarks.flux.compare_worker`."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join(filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-m", "benchmarks.flux.compare_worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=results.ROOT
        )

    def __call__(self, measurement: str, *arguments: Any) -> Any:
        """Run a measurement of the worker and return its result; `SystemExit` if the process ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([measurement, *arguments]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{measurement} failed; see its traceback above.")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def alternate(old: Checkout, new: Checkout, measurement: str, rounds: int = ROUNDS) -> dict[str, float]:
    """Measure in the order old, new, new, old, …; return the median of all milliseconds of each, and the ratio."""
    times: dict[Checkout, list[float]] = {old: [], new: []}
    for turn in range(rounds):
        for checkout in (old, new) if turn % 2 == 0 else (new, old):
            times[checkout] += checkout(measurement)
    before, after = (median(times[checkout]) for checkout in (old, new))
    return {"old ms": before, "new ms": after, "ratio": after / before}


def compare(old: Checkout, new: Checkout) -> dict[str, dict[str, Any]]:
    """Return a row for each precision, and one for whole images in bf16."""
    rows: dict[str, dict[str, Any]] = {}
    for precision in get_args(Precision):
        before, after = old("load", precision), new("load", precision)
        rows[f"step, {precision}"] = {
            "same bits": before["digests"] == after["digests"],
            "same kernels": before["kernels"] == after["kernels"],
            "kernels": len(after["kernels"]),
            **alternate(old, new, "steps"),
        }
    before, after = old("load_pipeline"), new("load_pipeline")
    rows["image, bf16"] = {"same bits": before == after, **alternate(old, new, "images", rounds=4)}
    return rows


def main() -> int:
    """Compare, print a table and write the result; return 1 if the new checkout differs or is slower."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flux.compare", description=__doc__)
    parser.add_argument("old", type=Path, help="a checkout of an older commit")
    parser.add_argument("new", type=Path, nargs="?", default=results.ROOT, help="default: this checkout")
    parser.add_argument("--output", type=Path, default=results.RESULTS / "flux-compare.json", help="the results file")
    options = parser.parse_args()
    old, new = Checkout(options.old.resolve()), Checkout(options.new.resolve())
    source = results.provenance()
    source["machine"] |= old("describe")
    new("describe")
    rows = compare(old, new)
    old.close()
    new.close()
    results.write(options.output, {**source, "old commit": results.commit(options.old), "rows": rows})

    table = Table("", "same bits", "same kernels", "old ms", "new ms", "new / old")
    for name, row in rows.items():
        equal = (str(row["same bits"]), str(row.get("same kernels", "")))
        table.add_row(name, *equal, f"{row['old ms']:.2f}", f"{row['new ms']:.2f}", f"{row['ratio']:.4f}")
    Console().print(table)
    met = all(row["same bits"] and row.get("same kernels", True) and row["ratio"] <= TOLERANCE for row in rows.values())
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
