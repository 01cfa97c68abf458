"""The tables of docs/reliability.md, generated from `results/hostile-*.json`."""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, ROOT, provenance, replace_marked

PAGE = ROOT / "docs" / "reliability.md"
HEADINGS = {
    "-": "Control",
    "A1": "Super-linear parsing",
    "A2": "Media types",
    "A3": "Parsing that stalls the probes",
    "A4": "Body limits and framing",
    "A5": "Request lines and headers",
    "A6": "Jobs",
    "A7": "Slow clients",
    "A8": "Draining",
    "B1": "Requests from other sites",
    "B2": "CORS",
    "B3": "Trust by address",
    "B4": "Keys",
    "C1": "Upgrade offers",
    "C2": "Content-Encoding",
    "C3": "Responses that cannot be sent",
    "C4": "Control characters and invalid HTTP",
    "C5": "Half-closed connections",
}


def stamped(result: dict[str, Any]) -> dict[str, Any]:
    """Add provenance and the versions of the HTTP stack to a result."""
    versions = {name: version(name) for name in ("fastapi", "starlette", "uvicorn", "httptools")}
    return {**provenance(), "versions": versions, **result}


def result_file(what: str) -> Path:
    """Return the file of a measurement's result."""
    return RESULTS / f"hostile-{what}.json"


def inputs_table(result: dict[str, Any]) -> str:
    """Render a table for each section: the input, the answer, and the effect on probes and memory."""
    rows = result["rows"]
    missed = sum(bool(row["missed"]) for row in rows)
    lines = [_when(result), "", f"{len(rows)} inputs: {len(rows) - missed} met every target, {missed} missed one."]
    for section in dict.fromkeys(sorted((row["section"] for row in rows), key=list(HEADINGS).index)):
        lines += [
            "",
            f"### {HEADINGS[section]}",
            "",
            "| input | response | time, s | worst `/health`, ms | memory, MiB | |",
        ]
        lines += ["| --- | --- | ---: | ---: | ---: | --- |"]
        lines += [_input_row(row) for row in rows if row["section"] == section]
    return "\n".join(lines)


def _input_row(row: dict[str, Any]) -> str:
    cells = [
        row["input"].replace("|", r"\|"),
        row["answer"],
        f"{row['seconds']:.2f}",
        f"{row['health_ms']:,.0f}",
        f"{row['growth_mib']:+,.0f}",
        "**" + "; ".join(row["missed"]) + "**" if row["missed"] else "",
    ]
    return "| " + " | ".join(cells).rstrip() + " |"


_SIDES = {"ray": "Ray's proxy", "nginx": "nginx in front"}


def cluster_table(result: dict[str, Any]) -> str:
    """Render each input's figures without nginx and with it."""
    lines = [
        f"{_when(result)} Ray {result['versions']['ray']}, nginx {result['versions']['nginx']}.",
        "",
        "| input |" + "".join(f" {side} | time, s | worst `/health`, ms | memory, MiB |" for side in _SIDES.values()),
        "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        cells = [cell for side in _SIDES for cell in _side(row[side], result["targets"])]
        lines.append("| " + " | ".join([row["input"], *cells]) + " |")
    return "\n".join(lines)


def _side(figures: dict[str, Any], targets: dict[str, float]) -> list[str]:
    """Render the cells of one address, bold where they miss a target."""
    growth = figures["growth_mib"]
    return [
        _bold(figures["answer"], any(missed.startswith("expected") for missed in figures["missed"])),
        f"{figures['seconds']:.2f}",
        _bold(f"{figures['health_ms']:,.0f}", figures["health_ms"] > targets["health_ms"]),
        _bold("lost", True) if growth is None else _bold(f"{growth:+,.0f}", growth > targets["growth_mib"]),
    ]


def _bold(text: str, missed: bool) -> str:
    return f"**{text}**" if missed else text


def figures_table(result: dict[str, Any]) -> str:
    """Render a table of figures and a table of targets."""
    lines = [_when(result), "", "| | |", "| --- | ---: |"]
    lines += [f"| {name} | {value:,} |" for name, value in result["figures"].items()]
    lines += ["", "| target | |", "| --- | --- |"]
    lines += [f"| {target} | {'met' if met else '**missed**'} |" for target, met in result["targets"].items()]
    return "\n".join(lines)


def _when(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"Measured on {result['when'][:10]} with Python {machine['python']} on {machine['cpus']} CPUs."


RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "inputs": inputs_table,
    "overload": figures_table,
    "disconnects": figures_table,
    "soak": figures_table,
    "cluster": cluster_table,
}


def render(text: str, results: dict[str, dict[str, Any]]) -> str:
    """Replace the tables of these results in the page's text."""
    for what, result in results.items():
        text = replace_marked(text, what, RENDERERS[what](result))
    return text


def read_all() -> dict[str, dict[str, Any]]:
    """Return all results on disk."""
    return {what: json.loads(result_file(what).read_text("utf-8")) for what in RENDERERS if result_file(what).exists()}
