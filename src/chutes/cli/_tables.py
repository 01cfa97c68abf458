"""The output of `chutes chutes` on a terminal: tables, and log lines with one colour per replica.

Names, states and log lines come from the cluster and may contain text from clients or authors. All of it is printed
literally: control characters are escaped, and rich's markup has no effect.
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
_UNKNOWN = "unknown, because the cluster's proxy does not answer"


def chutes(rows: list[dict[str, Any]]) -> Table:
    """Return the table of `chutes list`. URLs are folded, never cut, so that they can be copied."""
    table = Table("name", "status", "replicas", Column("URL", overflow="fold"), box=None)
    for row in rows:
        table.add_row(plain(row["name"]), _colored(row["status"]), str(row["replicas"]), plain(row["url"]))
    return table


def description(values: dict[str, Any]) -> Table:
    """Return the table of `chutes get`, with one row per value."""
    table = Table(show_header=False, box=None)
    for key, value in values.items():
        table.add_row(plain(key.replace("_", " ")), plain(format_value(key, value)))
    return table


def format_value(key: str, value: Any) -> str:
    """Return a value of `chutes get` as text."""
    if key == "cords":
        return "\n".join(f"{'|'.join(cord['methods'])} {cord['path']}" for cord in value)
    if key == "replicas":
        return "\n".join(f"{each['id']} {each['state']} on {each['node']}" for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    return "" if value is None else str(value)


def status(current: dict[str, Any]) -> Group:
    """Return the output of `chutes status`: the queue, the recent requests and the replicas."""
    summary = Table(show_header=False, box=None)
    summary.add_row("status", plain(f"{current['name']} is ").append(_colored(current["status"])))
    if current["queued"] is None:
        summary.add_row("running", str(current["running"]))
        summary.add_row("requests", _UNKNOWN)
    else:
        summary.add_row("running", f"{current['running']}, {current['queued']} queued")
        summary.add_row("requests", f"{current['per_minute']:g} per minute")
        summary.add_row("latency", _latency(current))
        failures = f"{current['errors']} errors, {current['rejected']} rejected, {current['disconnected']} disconnected"
        summary.add_row("last 5 minutes", failures)
    replicas = Table("replica", "state", "running", "node", "pid", "since", box=None)
    for each in current["replicas"]:
        running = "" if each["running"] is None else f"{each['running']}/{each['concurrency']}"
        replicas.add_row(
            plain(each["id"]),
            _colored(each["state"]),
            running,
            plain(each["node"]),
            str(each["pid"] or ""),
            format_time(each["since"]),
        )
    return Group(summary, "", replicas)


def metrics(current: dict[str, Any]) -> Group:
    """Return the output of `chutes metrics`: the requests, and a row for each GPU of each replica."""
    table = Table("replica", "GPU", "busy", "memory", "images", "images/s", "steps/s", box=None)
    for replica, each in current["replicas"].items():
        gpus = each["gpus"] or [{}]
        for gpu in gpus:
            used, total = gpu.get("memory_used_bytes"), gpu.get("memory_total_bytes")
            table.add_row(
                plain(replica),
                plain(gpu.get("name", "none")),
                f"{gpu['utilization']:.0%}" if "utilization" in gpu else "",
                f"{used / 1e9:.1f} of {total / 1e9:.1f} GB" if used is not None and total else "",
                str(each["images"]),
                f"{each['images_per_second']:g}",
                f"{each['steps_per_second']:g}",
            )
    if current["queued"] is None:
        heading = f"{current['running']} running; queue and latency {_UNKNOWN}"
    else:
        queue = f"{current['running']} running, {current['queued']} queued"
        heading = f"{queue}; {current['per_minute']:g} requests per minute; {_latency(current)}"
    return Group(heading, table)


def _latency(current: dict[str, Any]) -> str:
    return "  ".join(f"{key} {value:g} s" for key, value in current["latency_seconds"].items()) or "-"


class LogLines:
    """A formatter of log lines that gives each replica a colour."""

    def __init__(self) -> None:
        self._colors: dict[str, str] = {}

    def text(self, line: "Line") -> Text:
        """Return a log line with its time of day, replica, level, message and other fields."""
        color = self._colors.setdefault(line.replica, _COLORS[len(self._colors) % len(_COLORS)])
        level = printable(str(line.level))  # an author's logging setup may write any value
        text = Text(f"{printable(str(line.time)[11:23])} ").append(printable(line.replica), color)
        text.append(f" {level:7} ", _LEVELS.get(level, ""))
        return text.append(printable(line.message)).append(_format_fields(line.fields), "dim")


def _format_fields(fields: dict[str, Any]) -> str:
    exception = fields.get("exception")
    text = " ".join(f"{key}={value}" for key, value in fields.items() if key not in {"exception", "color_message"})
    traceback = f"\n{printable_lines(str(exception), _INDENT)}" if exception else ""  # indented, unlike log lines
    return (f"  {printable(text)}" if text else "") + traceback


def plain(value: object) -> Text:
    """Return a value as literal text for a cell."""
    return Text("" if value is None else printable_lines(str(value)))


def _colored(state: str) -> Text:
    color = {"running": "green", "deploy_failed": "red", "unhealthy": "red"}.get(state, "yellow")
    return Text(printable(state.replace("_", " ")), color)


def format_time(seconds: float | None) -> str:
    """Return a Unix time in ISO 8601, or an empty string for None."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""
