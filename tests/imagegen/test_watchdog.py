"""Work of a known kind that takes 20 times its usual duration is a hang; other work is not."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from benchmarks.harness.waiting import wait_for
from imagegen.watchdog import Watchdog

Watch = Callable[..., tuple[Watchdog, list[str]]]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """`watch(**options)` returns a watchdog with `hang_after` 0.3 s and the list of the hangs that it reports."""
    started = []

    def watch(**options: object) -> tuple[Watchdog, list[str]]:
        reasons: list[str] = []
        watchdog = Watchdog(reasons.append, **{"hang_after": 0.3, "cancel_timeout": 60.0, **options})
        watchdog.start()
        started.append(watchdog)
        return watchdog, reasons

    yield watch
    for watchdog in started:
        watchdog.stop()


def work(watchdog: Watchdog, kind: object, seconds: float = 0.0, times: int = 1) -> threading.Event:
    """Complete pieces of work of a kind, and begin another one."""
    cancelled = threading.Event()
    for _ in range(times):
        watchdog.begin(kind, cancelled)
        time.sleep(seconds)
    watchdog.begin(kind, cancelled)
    return cancelled


def test_work_of_a_known_kind_that_does_not_end_is_reported_once(watch: Watch) -> None:
    watchdog, reasons = watch()
    work(watchdog, "step")
    wait_for(lambda: reasons)
    time.sleep(0.5)
    assert len(reasons) == 1
    assert "hangs" in reasons[0]


@pytest.mark.parametrize("kind", ["first of its kind", None])
def test_work_of_unknown_duration_is_not_a_hang(watch: Watch, kind: str | None) -> None:
    watchdog, reasons = watch()
    if kind is None:
        work(watchdog, None, times=3)
    else:
        work(watchdog, "another kind")
        watchdog.begin(kind, threading.Event())
    time.sleep(1)
    assert not reasons


def test_the_limit_grows_with_the_usual_duration(watch: Watch) -> None:
    watchdog, reasons = watch()
    work(watchdog, "slow", seconds=1)
    time.sleep(2)  # the limit is 20 s
    assert not reasons


def test_one_outlier_does_not_move_the_limit(watch: Watch) -> None:
    watchdog, reasons = watch()
    work(watchdog, "step", times=4)
    work(watchdog, "step", seconds=3)
    wait_for(lambda: reasons)


def test_aborted_work_neither_hangs_nor_counts(watch: Watch) -> None:
    watchdog, reasons = watch()
    watchdog.begin("step", threading.Event())
    watchdog.abort()
    watchdog.begin("step", threading.Event())
    time.sleep(1)  # still the first of its kind
    assert not reasons
    watchdog.complete()
    time.sleep(1)  # idle
    assert not reasons


def test_exempt_time_does_not_count(watch: Watch) -> None:
    recording = threading.Event()
    recording.set()
    watchdog, reasons = watch(exempt=recording.is_set)
    work(watchdog, "step")
    time.sleep(1)
    assert not reasons
    recording.clear()
    wait_for(lambda: reasons)


@pytest.mark.parametrize("kind", ["first of its kind", None])
def test_cancelled_work_of_any_kind_has_to_end(watch: Watch, kind: str | None) -> None:
    watchdog, reasons = watch(cancel_timeout=0.3, exempt=lambda: True)
    cancelled = threading.Event()
    watchdog.begin(kind, cancelled)
    time.sleep(0.6)
    assert not reasons
    cancelled.set()
    wait_for(lambda: reasons)
    assert "has not responded" in reasons[0]


def test_old_kinds_are_forgotten() -> None:
    watchdog = Watchdog(lambda reason: None, hang_after=60, cancel_timeout=60)
    for kind in range(2_000):
        watchdog.begin(kind, threading.Event())
    assert len(watchdog._durations) <= 512
    for _ in range(100):
        watchdog.begin("step", threading.Event())
    assert len(watchdog._durations["step"]) <= 15


STOPPED = """
import sys, threading
from imagegen.watchdog import Watchdog
from benchmarks.harness.waiting import wait_for
watchdog = Watchdog(lambda reason: print(reason, flush=True), hang_after=3, cancel_timeout=60)
watchdog.start()
watchdog.begin("step", threading.Event())
watchdog.begin("step", threading.Event())
print("begun", flush=True)
sys.stdin.readline()
watchdog.complete()
print("ended", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
def test_a_stopped_process_does_not_count_as_hung() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate("go on\n", timeout=30)
    assert out == "ended\n"
