"""Update docs/performance.md and its plot from `results/flux.json`: `python -m benchmarks.flux.page`.

The plot needs matplotlib, which is in the `bench` extra.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks.results import RESULTS, ROOT, replace_marked

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance-steps.svg"
RESULT = RESULTS / "flux.json"
SIZES = ("512x512", "1024x1024", "768x1344", "1920x1088")
# What a row of the step table shows: its name, the run, the key of its times, and the key of its error.
STEP_ROWS = (
    ("fast path, bf16", "steps", "ms, ours bf16", "ours bf16"),
    ("fast path, fp8", "steps", "ms, ours fp8", "ours fp8"),
    ("fast path, fp8 with fp8 attention", "steps", "ms, ours fp8+attention", "ours fp8+attention"),
    ("diffusers, compiled by blocks", "steps", "ms, diffusers compiled by blocks", ""),
    ("diffusers, torchao fp8, compiled by blocks", "torchao", "ms, torchao fp8 rowwise compiled", ""),
    ("diffusers, eager", "steps", "ms, diffusers eager", "diffusers bf16"),
    ("lower bound: all FLOP at the matmul peak, bf16", "steps", "floor ms", ""),
)
SIMILARITY = ("fast path to float32", "diffusers bf16 to float32", "fast path to diffusers bf16", "minimum")


def read() -> dict[str, Any]:
    """Return the runs in the results file."""
    runs: dict[str, Any] = json.loads(RESULT.read_text("utf-8"))["runs"]
    return runs


def steps_table(runs: dict[str, Any]) -> str:
    """Render milliseconds per step, and the relative error at 1024x1024."""
    errors = next(row for row in runs["steps"]["error"] if row["size"] == "1024x1024")
    rows = []
    for name, run, times, error in STEP_ROWS:
        found = runs.get(run, {}).get(times, {})
        cells = [f"{found[size]:.1f}" if size in found else "" for size in SIZES]
        rows.append([name, *cells, f"{errors[error]:.2e}" if error else ""])
    return _table([["ms per step", *SIZES, "error at 1024x1024"], *rows], _source(runs, "steps", "torchao"))


def images_table(runs: dict[str, Any]) -> str:
    """Render seconds per image and the server's figures, for both precisions."""
    run = runs["images"]
    engines = [run["image, ours bf16"], run["image, ours fp8"]]
    servers = [run["server, ours bf16"], run["server, ours fp8"]]
    rows = [[f"{size}, s", *(f"{each[size]['median']:.2f}" for each in engines)] for size in SIZES]
    rows += [
        [f"first image of size {size}, s", *(f"{each[size]['first']:.2f}" for each in engines)]
        for size in ("512x512", "1920x1088")
    ]
    rows += [
        ["`POST /generate`, 1024x1024, s", *(f"{each['generate']:.2f}" for each in servers)],
        *(
            [f"{part}, ms", *(f"{each['ms of the other parts'][part]:.1f}" for each in engines)]
            for part in ("T5", "CLIP", "VAE decode")
        ),
        ["GPU memory reserved, GiB", *(f"{each['peak GiB at 1024x1024']['reserved']:.1f}" for each in engines)],
        ["GPU busy with ten queued images", *(f"{each['queue of ten']['busy']:.1%}" for each in engines)],
        ["process start to ready, s", *(f"{each['ready']:.1f}" for each in servers)],
        ["process start to first image, s", *(f"{each['start to first picture']:.1f}" for each in servers)],
    ]
    return _table([["28 steps, 512 text tokens", "bf16", "fp8"], *rows], _source(runs, "images"))


def similarity_table(runs: dict[str, Any]) -> str:
    """Render the mean PSNR between images of the fast path, of diffusers and of a float32 transformer."""
    rows = [
        [name, *(f"{psnr[column]:.1f}" for column in SIMILARITY)] for name, psnr in runs["similarity"]["dB"].items()
    ]
    return _table([["PSNR in dB", *SIMILARITY[:-1], "minimum of 32 images"], *rows], _source(runs, "similarity"))


def _table(rows: list[list[str]], source: str) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "| --- |" + " ---: |" * (len(rows[0]) - 1), *body, "", source])


def _source(runs: dict[str, Any], *names: str) -> str:
    """Say how the runs were measured."""
    return " ".join(_measured(runs[name]) for name in names if name in runs)


def _measured(run: dict[str, Any]) -> str:
    peak = f" ({run['matmul TFLOP/s']:.0f} TFLOP/s)" if "matmul TFLOP/s" in run else ""
    return f"`{run['command']}`, {run['when'][:10]}, commit {run['commit']}, {run['machine']['gpu']}{peak}."


TABLES = {"steps": steps_table, "images": images_table, "similarity": similarity_table}


def render(text: str, runs: dict[str, Any]) -> str:
    """Replace the tables in the page's text."""
    for name, table in TABLES.items():
        text = replace_marked(text, name, table(runs))
    return text


def plot(runs: dict[str, Any], sizes: Iterable[str] = ("512x512", "1024x1024", "1920x1088")) -> None:
    """Plot the times of a step and their lower bound."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "steps", "svg.fonttype": "none", "font.family": "sans-serif"})
    figures = runs["steps"]
    rows = {name: runs.get(run, {}).get(times, {}) for name, run, times, _ in STEP_ROWS[:-1]}
    panels_of = list(sizes)
    sheet, panels = plt.subplots(1, len(panels_of), figsize=(10, 2.8), layout="constrained", sharey=True)
    for panel, size in zip(panels, panels_of, strict=True):
        times = [row.get(size, 0) for row in rows.values()]
        bars = panel.barh(list(rows), times, color=["#2a6f97" if "fast" in name else "#b0b0b0" for name in rows])
        panel.axvline(figures["floor ms"][size], color="#c1121f", linestyle="--", linewidth=1)
        labels = [f"{time:.0f}" if time else "not measured" for time in times]
        panel.bar_label(bars, labels, padding=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
        panel.set_title(f"{size}, ms per step", fontsize=10)
        panel.margins(x=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    sheet.suptitle(f"{figures['machine']['gpu']}; dashed: lower bound of a bf16 step", fontsize=9)
    sheet.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    """Update the page and the plot."""
    runs = read()
    PAGE.write_text(render(PAGE.read_text("utf-8"), runs), encoding="utf-8")
    plot(runs)


if __name__ == "__main__":
    main()
