"""Attack a `chutes run` process or a cluster, and measure the effect on answers, probes and memory.

    python -m benchmarks.hostile                 # every hostile input, each on a new server (10 minutes)
    python -m benchmarks.hostile overload        # ten times the capacity for 60 s
    python -m benchmarks.hostile disconnects     # 1 000 clients of the image service disconnect in all stages
    python -m benchmarks.hostile soak            # 30 minutes of mixed traffic on the image service
    python -m benchmarks.hostile cluster         # some inputs, to Ray's proxy and through nginx (6 minutes)

Each command writes `results/hostile-*.json`, and with `--write docs/reliability.md` also the tables of that page. The
exit code is 1 if a target is missed. Linux only: memory, threads and descriptors are read from /proc.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.hostile import cluster, disconnects, inputs, overload, page, soak


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser("benchmarks.hostile", description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", default="inputs", choices=list(page.RENDERERS))
    parser.add_argument("--only", nargs="+", default=[], help="inputs: sections (A1) or parts of names")
    parser.add_argument("--skip", nargs="+", default=[], help="inputs: sections or parts of names to leave out")
    parser.add_argument("--list", action="store_true", help="inputs: print their names")
    parser.add_argument("--seconds", type=float, default=60, help="overload: duration")
    parser.add_argument("--count", type=int, default=1000, help="disconnects: number of clients")
    parser.add_argument("--seed", type=int, default=15, help="disconnects and soak: seed of the random choices")
    parser.add_argument("--minutes", type=float, default=30, help="soak: duration")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--write", type=Path, help="documentation page to update")
    return parser.parse_args()


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run the selected measurement."""
    if given.what == "overload":
        return overload.run(given.seconds)
    if given.what == "disconnects":
        return disconnects.run(given.count, given.seed)
    if given.what == "soak":
        return soak.run(given.minutes, given.seed)
    if given.what == "cluster":
        return cluster.run()
    return inputs.run(inputs.select(given.only, given.skip))


def main() -> int:
    """Measure, print and write the result; return 1 if a target is missed."""
    given = arguments()
    if given.list:
        for row in inputs.select(given.only, given.skip):
            print(f"{row.section:2}  {row.name}")
        return 0
    result = measure(given)
    if given.output is not None or not (
        given.only or given.skip
    ):  # a selection of inputs does not replace the full result
        results.write(given.output or page.result_file(given.what), result)
    if given.write is not None:
        given.write.write_text(page.render(given.write.read_text("utf-8"), {given.what: result}), encoding="utf-8")
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
