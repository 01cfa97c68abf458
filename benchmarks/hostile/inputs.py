"""Send each hostile input to a new server, and measure the effect on probes, memory and later requests."""

import asyncio
import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.hostile import page
from benchmarks.hostile.attack import Outcome, Row, once
from benchmarks.hostile.probe import probing
from benchmarks.hostile.rows import ROWS
from benchmarks.hostile.rows.bodies import LIMIT
from benchmarks.hostile.server import MIB, Server, serving, wait_until
from benchmarks.hostile.wire import Reply, exchange, post

HEALTH_MS = 250
GROWTH = 4 * LIMIT
_SETTLED = 0.3  # seconds of probing before and after an attack
_VALID_REQUEST = post("/generate", b'{"prompt": "x"}', "Authorization: Bearer a-key")


def measure(row: Row) -> dict[str, Any]:
    """Send a row to a new server, and return its figures and missed targets."""
    parts = row.build()
    with serving(settings=row.settings) as server:
        asyncio.run(exchange(server.port, [_VALID_REQUEST]))  # so that imports and caches do not count
        server.reset_peak()
        before = server.memory()
        with probing(server.port) as probe:
            time.sleep(_SETTLED)
            replies = asyncio.run((row.attack or once)(server, row, parts))
            if not row.ends:
                time.sleep(_SETTLED)
        ended = server.process.poll() is not None
        growth = 0 if ended else server.peak_memory() - before
        recovers = ended if row.ends else not ended and _recovers(server)
        log = server.log()
    return {
        "section": row.section,
        "input": row.name,
        "answer": count_outcomes(replies),
        "seconds": round(max(reply.seconds for reply in replies), 3),
        "health_ms": probe.figures["/health"]["worst_ms"],
        "ready_ms": probe.figures["/ready"]["worst_ms"],
        "prober_late_ms": probe.figures["late_ms"],
        "growth_mib": round(growth / MIB, 1),
        "missed": find_missed(row, replies, probe.figures, growth, recovers=recovers, log=log),
    }


def _recovers(server: Server) -> bool:
    """Return whether a valid request succeeds within ten seconds and the server becomes idle."""
    reply = asyncio.run(exchange(server.port, [_VALID_REQUEST], limit=10))
    return reply.status == 200 and wait_until(server.is_idle, 10)


def _outcomes(reply: Reply) -> list[Outcome]:
    return [*reply.statuses, reply.ended] if reply.ended == "silent" else [*reply.statuses] or [reply.ended]


def count_outcomes(replies: list[Reply]) -> str:
    """Return each outcome with its number, as text."""
    counts = Counter(str(outcome) for reply in replies for outcome in _outcomes(reply))
    return ", ".join(
        f"{outcome} ({count:,} times)" if count > 1 else outcome for outcome, count in counts.most_common()
    )


def find_missed(
    row: Row, replies: list[Reply], probes: dict[str, Any], growth: int, *, recovers: bool, log: str = ""
) -> list[str]:
    """Return the targets that a row missed."""
    missed = []
    outcomes = {outcome for reply in replies for outcome in _outcomes(reply)}
    if not outcomes <= row.expects:
        missed.append(f"expected {' or '.join(sorted(map(str, row.expects)))}")
    if any(0 < len(reply.statuses) < row.answers for reply in replies) and outcomes != {"closed"}:
        missed.append(f"expected {row.answers:,} answers")
    if row.contains and not all(row.contains in reply.received.lower() for reply in replies):
        missed.append(f"expected {row.contains.decode()!r} in the answer")
    if row.log_lacks and row.log_lacks in log:
        missed.append("control characters in the log")
    missed += [
        f"{path} took {probes[path]['worst_ms']:,.0f} ms"
        for path in ("/health", "/ready")
        if probes[path]["worst_ms"] > HEALTH_MS
    ]
    if growth > GROWTH:
        missed.append(f"memory grew by {growth / MIB:,.0f} MiB")
    if not recovers:
        missed.append("no valid request succeeded afterwards" if not row.ends else "the server did not end")
    return missed


def select(only: list[str], skip: list[str]) -> list[Row]:
    """Return the rows that match `only` and not `skip`, by section or by a part of their name."""

    def named(row: Row, texts: list[str]) -> bool:
        return any(text == row.section if text in page.HEADINGS else text in row.name for text in texts)

    return [row for row in ROWS if (not only or named(row, only)) and not named(row, skip)]


def run(rows: list[Row]) -> dict[str, Any]:
    """Measure and print each row, and return the result."""
    console = Console()
    measured = []
    for number, row in enumerate(rows, 1):
        result = measure(row)
        measured.append(result)
        state = "[red]MISSED[/]" if result["missed"] else "[green]met[/]   "
        figures = "{answer:>12}  {seconds:8.3f} s  /health {health_ms:8,.1f} ms  {growth_mib:+8.1f} MiB".format(
            **result
        )
        console.print(
            f"{number:3}/{len(rows)} {state} {figures}  {row.section:2} ", end="", highlight=False, soft_wrap=True
        )
        missed = f"  [{'; '.join(result['missed'])}]" if result["missed"] else ""
        console.print(row.name + missed, markup=False, highlight=False, soft_wrap=True)
    bad = [result for result in measured if result["missed"]]
    table = Table("rows", "met", "missed", "worst /health, ms", "most growth, MiB", title="Hostile input")
    worst, most = max(each["health_ms"] for each in measured), max(each["growth_mib"] for each in measured)
    table.add_row(str(len(measured)), str(len(measured) - len(bad)), str(len(bad)), f"{worst:,.1f}", f"{most:,.1f}")
    console.print(table)
    targets = {"health_ms": HEALTH_MS, "growth_mib": GROWTH // MIB}
    return page.stamped({"targets": targets, "met": not bad, "rows": measured})
