import json
from pathlib import Path

import pytest

from chutes.deploy import logs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(logs, "log_folder", lambda: tmp_path)
    monkeypatch.setattr(
        logs.Reader, "_read_nodes", lambda self: [("here", logs.read_files("slug", self._offsets.get("here", {})))]
    )
    return tmp_path


def write(folder: Path, replica: str, *times: int, end: str = "\n") -> None:
    with (folder / f"chutes_slug_{replica}.jsonl").open("a") as file:
        for time in times:
            line = {"timestamp": f"2026-01-01T00:00:{time:02}Z", "level": "info", "message": f"{replica}{time}", "x": 1}
            file.write(json.dumps(line) + end)


def test_lines_of_all_replicas_in_order_then_only_new_ones(folder: Path) -> None:
    write(folder, "a", 1, 4)
    write(folder, "b", 2, 3)
    write(folder, "b", 5, end="")  # a line that is being written
    reader = logs.Reader("slug")
    assert [line.message for line in reader.read()] == ["a1", "b2", "b3", "a4"]
    with (folder / "chutes_slug_b.jsonl").open("a") as file:
        file.write("\nno JSON\n")
    write(folder, "a", 6)
    lines = reader.read()
    assert [(line.replica, line.message, line.fields) for line in lines] == [
        ("b", "b5", {"x": 1}),
        ("a", "a6", {"x": 1}),
    ]
    assert reader.read() == []


def test_a_rotated_file_is_read_from_its_start(folder: Path) -> None:
    write(folder, "a", 1, 2, 3)
    reader = logs.Reader("slug")
    reader.read()
    (folder / "chutes_slug_a.jsonl").unlink()
    write(folder, "a", 9)
    assert [line.message for line in reader.read()] == ["a9"]


def test_lines_of_another_chute_are_not_read(folder: Path) -> None:
    (folder / "chutes_slug-two_a.jsonl").write_text('{"message": "no"}\n')
    assert logs.Reader("slug").read() == []


def test_a_line_longer_than_a_chunk_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_CHUNK_SIZE", 500)
    (folder / "chutes_slug_a.jsonl").write_text('{"message": "' + "x" * 1200 + '"}\n123\n')
    write(folder, "a", 5)
    reader = logs.Reader("slug")
    assert [line.message for _ in range(4) for line in reader.read()] == ["a5"]
