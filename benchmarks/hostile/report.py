"""The report of a measurement: its figures and targets, printed and as a result."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.hostile import page


def report(title: str, figures: Mapping[str, float], targets: Mapping[str, bool], **more: Any) -> dict[str, Any]:
    """Print figures and targets, and return them as a result with provenance."""
    table = Table("", "", title=title)
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)
    for target, met in targets.items():
        print(f"{'met   ' if met else 'MISSED'} {target}")
    return page.stamped({"met": all(targets.values()), "figures": dict(figures), "targets": dict(targets), **more})
