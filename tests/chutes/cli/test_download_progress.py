import pytest

from chutes.cli import _download_progress
from chutes.cli._download_progress import DownloadProgress


def test_a_log_gets_a_line_at_intervals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 4.0, 12.0, 15.0, 23.0])
    monkeypatch.setattr(_download_progress.time, "monotonic", lambda: next(clock))
    with DownloadProgress(2_000_000) as progress:
        for done in (100_000, 600_000, 700_000, 2_000_000):
            progress.show(done)
    assert capsys.readouterr().err.splitlines() == [
        "Downloaded 600.0 kB of 2.0 MB (30%), 50.0 kB/s",
        "Downloaded 2.0 MB of 2.0 MB (100%), 87.0 kB/s",
    ]


def test_only_bars_of_bytes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[float] = []
    progress = DownloadProgress(1000)
    progress.show = seen.append  # type: ignore[method-assign]  # records the bytes without the clock
    with progress.bar_class(total=3, desc="files") as files, progress.bar_class(total=1000, unit="B") as data:
        files.update(1)
        data.update(400)
        data.refresh()
        data.update(600)
        data.refresh()
    assert seen[-1] == 1000
    assert 400 in seen
    assert capsys.readouterr() == ("", "")
