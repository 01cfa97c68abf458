"""What `chutes chutes` shows to people: tables, and lines coloured by replica.

Names, states and log lines come from the cluster, and may hold what a client or an author wrote: control characters are
escaped, and nothing is taken for rich's markup.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from chutes._text import printable, printable_lines

if TYPE_CHECKING:
    from chutes.deploy.logs import Line

_COLORS = ("cyan", "green", "magenta", "yellow", "blue", "red")
_LEVELS = {"error": "red", "critical": "red", "warning": "yellow"}
_INDENT = "    "


def chutes(rows: list[dict[str, Any]]) -> Table:
    """What is deployed."""
    table = Table("name", "status", "replicas", Column("URL", overflow="fold"), box=None)  # whole, to be copied
    for row in rows:
        table.add_row(plain(row["name"]), _colored(row["status"]), str(row["replicas"]), plain(row["url"]))
    return table


def description(told: dict[str, Any]) -> Table:
    """One chute, a line for each thing that is known of it."""
    table = Table(show_header=False, box=None)
    for key, value in told.items():
        table.add_row(plain(key.replace("_", " ")), plain(in_words(key, value)))
    return table


def in_words(key: str, value: Any) -> str:
    """A value of `get` for people."""
    if key == "cords":
        return "\n".join(f"{'|'.join(cord['methods'])} {cord['path']}" for cord in value)
    if key == "replicas":
        return "\n".join(f"{each['id']} {each['state']} on {each['node']}" for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{inner}={what}" for inner, what in value.items())
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    return "" if value is None else str(value)


def status(told: dict[str, Any]) -> Group:
    """Replicas, queue, and the last minutes."""
    facts = Table(show_header=False, box=None)
    facts.add_row("status", plain(f"{told['name']} is ").append(_colored(told["status"])))
    if told["queued"] is None:
        facts.add_row("running", str(told["running"]))
        facts.add_row("requests", _UNKNOWN)
    else:
        facts.add_row("running", f"{told['running']}, {told['queued']} waiting")
        facts.add_row("requests", f"{told['per_minute']:g} per minute")
        facts.add_row("latency", _latency(told))
        facts.add_row("last minutes", f"{told['errors']} errors, {told['rejected']} turned away, {told['left']} left")
    replicas = Table("replica", "state", "running", "node", "pid", "since", box=None)
    for each in told["replicas"]:
        running = "" if each["running"] is None else f"{each['running']}/{each['concurrency']}"
        replicas.add_row(
            plain(each["id"]),
            _colored(each["state"]),
            running,
            plain(each["node"]),
            str(each["pid"] or ""),
            when(each["since"]),
        )
    return Group(facts, "", replicas)


def metrics(told: dict[str, Any]) -> Group:
    """The GPUs of each replica, and what it draws."""
    table = Table("replica", "GPU", "busy", "memory", "images", "images/s", "steps/s", box=None)
    for replica, each in told["replicas"].items():
        cards = each["gpus"] or [{}]
        for card in cards:
            used, total = card.get("memory_used_bytes"), card.get("memory_total_bytes")
            table.add_row(
                plain(replica),
                plain(card.get("name", "none")),
                f"{card['utilization']:.0%}" if "utilization" in card else "",
                f"{used / 1e9:.1f} of {total / 1e9:.1f} GB" if used is not None and total else "",
                str(each["images"]),
                f"{each['images_per_second']:g}",
                f"{each['steps_per_second']:g}",
            )
    heading = f"{told['running']} running; {_UNKNOWN}"
    if told["queued"] is not None:
        heading = (
            f"{told['running']} running, {told['queued']} waiting; {told['per_minute']:g} per minute; {_latency(told)}"
        )
    return Group(heading, table)


_UNKNOWN = "unknown, the cluster's proxy does not answer"


def _latency(told: dict[str, Any]) -> str:
    return "  ".join(f"{key} {value:g} s" for key, value in told["latency_seconds"].items()) or "-"


class Lines:
    """Log lines, each replica in its own colour."""

    def __init__(self) -> None:
        self._colors: dict[str, str] = {}

    def text(self, line: "Line") -> Text:
        """One line."""
        color = self._colors.setdefault(line.replica, _COLORS[len(self._colors) % len(_COLORS)])
        level = printable(str(line.level))  # an author's structlog may put anything there
        text = Text(f"{printable(str(line.time)[11:23])} ").append(printable(line.replica), color)
        text.append(f" {level:7} ", _LEVELS.get(level, ""))
        return text.append(printable(line.message)).append(_rest(line.fields), "dim")


def _rest(fields: dict[str, Any]) -> str:
    exception = fields.get("exception")
    short = " ".join(f"{key}={value}" for key, value in fields.items() if key not in {"exception", "color_message"})
    below = f"\n{printable_lines(str(exception), _INDENT)}" if exception else ""  # only a line begins at the margin
    return (f"  {printable(short)}" if short else "") + below


def plain(value: object) -> Text:
    """A cell with this text as it stands, not as rich's markup."""
    return Text("" if value is None else printable_lines(str(value)))


def _colored(state: str) -> Text:
    color = {"running": "green", "deploy_failed": "red", "unhealthy": "red"}.get(state, "yellow")
    return Text(printable(state.replace("_", " ")), color)


def when(seconds: float | None) -> str:
    """A Unix time for people; nothing for None."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""
