import pytest
from rich.console import Console

from chutes.cli import _tables as tables
from chutes.deploy.logs import Line


def test_status_as_a_table() -> None:
    current = {
        "name": "draws",
        "status": "running",
        "running": 1,
        "queued": 3,
        "per_minute": 12.5,
        "errors": 1,
        "rejected": 2,
        "disconnected": 0,
        "latency_seconds": {"p50": 0.5, "p99": 2.0},
        "replicas": [
            {
                "id": "abc",
                "state": "running",
                "running": 1,
                "concurrency": 2,
                "node": "10.0.0.1",
                "pid": 7,
                "since": 1.0,
            },
            {
                "id": "def",
                "state": "starting",
                "running": None,
                "concurrency": None,
                "node": None,
                "pid": None,
                "since": None,
            },
        ],
    }
    console = Console(width=120, record=True, quiet=True)
    with console.capture() as shown:
        console.quiet = False
        console.print(tables.status(current))
    text = shown.get()
    for part in ("draws is running", "1, 3 queued", "12.5 per minute", "p50 0.5 s  p99 2 s", "1/2", "starting"):
        assert part in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cords", [{"methods": ["GET", "POST"], "path": "/a", "name": "a"}], "GET|POST /a"),
        ("replicas", [{"id": "x", "state": "running", "node": "n", "pid": 1}], "x running on n"),
        ("node_selector", {"gpu_count": 1, "include": ["h100"]}, "gpu_count=1, include=['h100']"),
        ("files", ["a.py", "b.py"], "a.py, b.py"),
        ("scale_up_threshold", None, ""),
        ("concurrency", 2, "2"),
    ],
)
def test_values_as_text(key: str, value: object, words: str) -> None:
    assert tables.format_value(key, value) == words


def test_log_lines_have_the_color_of_their_replica() -> None:
    lines = tables.LogLines()
    fields = {"number": 7, "exception": "Traceback\n  here"}
    first = lines.text(Line("2026-01-01T10:20:30.123456Z", "a1", "error", "author", "oh no", fields))
    assert first.plain == "10:20:30.123 a1 error   oh no  number=7\n    Traceback\n      here"
    colors = [
        str(lines.text(Line("", replica, "info", "", "", {})).spans[0].style) for replica in ("a1", "b2", "a1", "c3")
    ]
    assert colors[0] == colors[2]
    assert len(set(colors)) == 3


HOSTILE = "a\x1b[31m\r\x9b\u202e\u2028[bold]b[/]\x07"


def shown(what: object) -> str:
    console = Console(width=200, highlight=False, soft_wrap=True)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def test_a_log_line_cannot_forge_another() -> None:
    forged = f"{HOSTILE}\n10:20:30.123 a1 info    forged"
    fields = {"path": forged, forged: 1, "exception": f"ValueError: {forged}"}
    text = shown(tables.LogLines().text(Line(forged, forged, forged, forged, forged, fields)))
    assert [line.startswith("    ") for line in text.splitlines()] == [False, True, True]
    assert text.replace("\n", "").isprintable()
    assert text.count("[bold]b[/]") == 6  # of the time only the hours to milliseconds are shown


def test_text_from_the_cluster_is_shown_literally() -> None:
    state = {"state": HOSTILE, "running": None, "concurrency": None, "pid": None, "since": None}
    current = {"name": HOSTILE, "status": HOSTILE, "running": 0, "queued": None, "replicas": []}
    current["replicas"] = [{"id": HOSTILE, "node": HOSTILE, **state}]
    row = {"name": HOSTILE, "status": HOSTILE, "replicas": 1, "url": HOSTILE}
    replica_metrics = {"gpus": [{"name": HOSTILE}], "images": 0, "images_per_second": 0, "steps_per_second": 0}
    metrics = {"running": 0, "queued": None, "replicas": {HOSTILE: replica_metrics}}
    for what, count in (
        (tables.status(current), 5),
        (tables.chutes([row]), 3),
        (tables.description({"tagline": HOSTILE, "files": [HOSTILE]}), 2),
        (tables.metrics(metrics), 2),
    ):
        text = shown(what)
        assert text.replace("\n", "").isprintable()
        assert text.count(r"a\x1b[31m\r\x9b\u202e\u2028[bold]b[/]\x07") == count


def test_metrics_as_a_table() -> None:
    card = {
        "gpu": "0",
        "name": "NVIDIA H100",
        "utilization": 0.5,
        "memory_used_bytes": 4e10,
        "memory_total_bytes": 8e10,
    }
    replica = {"running": 1, "gpus": [card], "images": 3, "images_per_second": 0.5, "steps_per_second": 14.0}
    current = {
        "running": 1,
        "queued": 2,
        "per_minute": 30.0,
        "latency_seconds": {},
        "replicas": {"a1": replica, "b2": {**replica, "gpus": []}},
    }
    console = Console(width=120)
    with console.capture() as shown:
        console.print(tables.metrics(current))
    for part in ("1 running, 2 queued; 30 requests per minute", "NVIDIA H100", "50%", "40.0 of 80.0 GB", "none", "14"):
        assert part in shown.get()
