"""`python -m benchmarks.flux.plot RESULTS.json`: the steps' times beside their floor, for docs/performance.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

PICTURE = Path(__file__).parents[2] / "docs" / "performance-steps.svg"
SIZES = ("512x512", "1024x1024", "1920x1088")


def main() -> None:
    """Draw the picture from a results file."""
    figures = json.loads(Path(sys.argv[1]).read_text())
    rows = {name.removeprefix("ms, "): row for name, row in figures.items() if name.startswith("ms, ")}
    mpl.rcParams.update({"svg.hashsalt": "steps", "svg.fonttype": "none", "font.family": "sans-serif"})
    sheet, panels = plt.subplots(1, len(SIZES), figsize=(10, 2.8), layout="constrained", sharey=True)
    for panel, size in zip(panels, SIZES, strict=True):
        times = [row.get(size, 0) for row in rows.values()]
        bars = panel.barh(list(rows), times, color=["#2a6f97" if "ours" in name else "#b0b0b0" for name in rows])
        panel.axvline(figures["floor ms"][size], color="#c1121f", linestyle="--", linewidth=1)
        labels = [f"{time:.0f}" if time else "not measured" for time in times]
        panel.bar_label(bars, labels, padding=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        panel.set_title(f"{size}, ms per step", fontsize=10)
        panel.margins(x=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    sheet.suptitle(f"{figures['gpu']}; dashed: all of a bf16 step at its matmul peak", fontsize=9)
    sheet.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
