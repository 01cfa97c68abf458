"""`chutes run` as a process: what it serves, what it prints, and its exit codes."""

import gc
import json
import os
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.waiting import LIMIT
from tests.chutes.cli.conftest import Run
from tests.chutes.cli.server import Process, eventually, get, running

CHUTE = """
import os
from chutes.chute import Chute

chute = Chute(username="me", name="small", image="me/small:1")
spare = Chute(username="me", name="spare", image="me/small:1")
number = 3


@chute.cord(public_api_path="/hello", method="POST")
async def hello(self, name: str = "you"):
    return {"hello": name, "dev": os.environ.get("CHUTES_DEV_MODE"), "where": os.environ["CHUTES_EXECUTION_CONTEXT"]}
"""


SLOW = """
import asyncio
from pathlib import Path
from chutes.chute import Chute
chute = Chute(username="me", name="slow", image="me/slow:1")
@chute.cord(public_api_path="/hello", method="POST")
async def hello(self, name: str = "you") -> dict:
    Path("began").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return {"hello": name}
"""


@pytest.fixture
def folder(chutes: Run, tmp_path: Path) -> Path:
    """The folder that `chutes` runs in, with a chute in it."""
    (tmp_path / "small.py").write_text(CHUTE)
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "broken.py").write_text("x = 1\ndef x(:\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").touch()
    (tmp_path / "package/inner.py").write_text(CHUTE)
    return tmp_path


def post(port: int, **headers: str) -> dict[str, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/hello", b"{}", {"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=LIMIT) as response:
        answer: dict[str, str] = json.load(response)
    return answer


@contextmanager
def running_request(folder: Path, process: Process, port: int) -> Iterator[Future[dict[str, str]]]:
    """A request that slow.py is handling, until the folder has a file named go."""

    def begun() -> None:
        assert (folder / "began").exists()

    with ThreadPoolExecutor(1) as thread:
        eventually(lambda: get(port, "/ready"), process)
        answer = thread.submit(post, port)
        eventually(begun, process)
        try:
            yield answer
        finally:
            (folder / "go").touch()


def draining(port: int) -> None:
    try:
        status = get(port, "/ready")
    except urllib.error.HTTPError as refused:
        refused.close()
        status = refused.code
    assert status == 503


@pytest.mark.parametrize("ref", ["small:chute", "small", "small.py", "package.inner", "package/inner.py:spare"])
def test_a_reference_names_a_module_or_a_file(folder: Path, ref: str) -> None:
    with running(folder, ref) as (process, port):
        assert eventually(lambda: get(port, "/health"), process) == 200
        if "spare" not in ref:
            assert eventually(lambda: post(port), process) == {"hello": "you", "dev": None, "where": "REMOTE"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("nothing", "nothing"),
        ("nothing.py", "no file nothing.py"),
        ("broken", "broken.py:2"),
        ("small:chut", "small:chute"),
        ("small:number", "must be a Chute"),
    ],
)
def test_a_chute_that_does_not_load_is_one_line(chutes: Run, folder: Path, ref: str, message: str) -> None:
    done = chutes("run", ref, "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_one_line(chutes: Run, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = chutes("run", "small", "--port", str(taken.getsockname()[1]))
        missing = chutes("run", "nothing.py", "--port", str(taken.getsockname()[1]))
    assert done.returncode == missing.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: ")
    assert "in use" in done.stderr
    assert missing.stderr == "Error: There is no file nothing.py. Check the path.\n"


@pytest.mark.parametrize("extra", [[], ["--dev"]])
def test_a_public_address_requires_a_key_or_no_auth(chutes: Run, folder: Path, extra: list[str]) -> None:
    done = chutes("run", "small", "--host", "0.0.0.0", "--port", "0", *extra)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert all(way in done.stderr for way in ("CHUTES_API_KEYS", "chutes keys create", "--no-auth"))
    with running(folder, "small", "--host", "0.0.0.0", "--no-auth") as (process, port):
        assert eventually(lambda: post(port), process)["hello"] == "you"


def test_invalid_settings_are_one_line_with_their_name(fails: Callable[..., str], folder: Path) -> None:
    assert "CHUTES_PORT" in fails("run", "small", CHUTES_PORT="many")
    assert "CHUTES_QUEUE_SIZE" in fails("run", "small", CHUTES_QUEUE_SIZE="-1")
    assert "CHUTES_DRAIN_GRACE" in fails("run", "small", CHUTES_DRAIN_GRACE="inf")


def test_reloading_needs_a_folder_to_watch(fails: Callable[..., str], folder: Path) -> None:
    assert re.search(r"There is no folder \S+/nowhere to watch", fails("run", "nowhere/app.py", "--reload"))


def test_options_win_over_the_environment(folder: Path) -> None:
    options = ["--log-level", "error", "--max-body-bytes", "1"]
    with running(folder, "small", *options, CHUTES_PORT="1", CHUTES_LOG_LEVEL="debug") as (process, port):
        eventually(lambda: get(port, "/ready"), process)
        with pytest.raises(urllib.error.HTTPError, match="413"):
            post(port)
    assert (folder / "log").read_text() == ""


def test_dev_mode_needs_no_key_on_loopback(folder: Path) -> None:
    with running(folder, "small", "--dev", "--debug", CHUTES_API_KEYS="secret") as (process, port):
        assert eventually(lambda: post(port), process)["dev"] == "true"
    with running(folder, "small", CHUTES_API_KEYS="secret") as (process, port):
        eventually(lambda: get(port, "/ready"), process)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            post(port)
        assert post(port, Authorization="Bearer secret")["hello"] == "you"


def test_reload_serves_the_changed_file(folder: Path) -> None:
    with running(folder, "small.py", "--reload") as (process, port):
        eventually(lambda: post(port), process)
        written = -10.0

        def changed() -> None:
            nonlocal written
            answer = post(port)["hello"]  # raises while the server is started again
            if answer != "changed" and time.monotonic() - written > 5:
                # Again: the watch begins after the first start, and doesn't say when.
                (folder / "small.py").write_text(CHUTE.replace('"hello": name', '"hello": "changed"'))
                written = time.monotonic()
            assert answer == "changed"

        eventually(changed, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    with pytest.raises(OSError, match="refused"):
        post(port)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [False, True])  # as a terminal's Ctrl-C is
def test_reload_lets_requests_finish(sent: signal.Signals, to_all: bool, folder: Path) -> None:
    with running(folder, "slow.py", "--reload") as (process, port), running_request(folder, process, port) as answer:
        if to_all:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        eventually(lambda: draining(port), process)
        time.sleep(1)  # in which what is passed on reaches the server too
        (folder / "go").touch()
        assert answer.result()["hello"] == "you"
        assert process.wait(LIMIT) == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("reload", [(), ("--reload",)])
def test_a_signal_that_the_parent_ignores_stops_it(sent: signal.Signals, reload: tuple[str], folder: Path) -> None:
    """A non-interactive shell starts background jobs with SIGINT ignored."""
    ignoring = ["sh", "-c", 'trap \'\' INT; exec "$0" "$@"']
    with running(folder, "small.py", *reload, prefix=ignoring) as (process, port):
        eventually(lambda: get(port, "/ready"), process)
        process.send_signal(sent)
        assert process.wait(LIMIT) == 0
    with pytest.raises(OSError, match="refused"):
        get(port, "/health")


def test_the_same_signal_again_stops_at_once(folder: Path) -> None:
    with running(folder, "slow.py") as (process, port), running_request(folder, process, port) as answer:
        process.send_signal(signal.SIGTERM)
        eventually(lambda: draining(port), process)
        process.send_signal(signal.SIGINT)
        for _ in range(3):
            draining(port)  # another signal is not the same again
        process.send_signal(signal.SIGTERM)
        with pytest.raises(OSError) as left:
            answer.result()
        if isinstance(left.value, urllib.error.HTTPError):
            left.value.close()
        assert process.wait(LIMIT) == 5


def test_garbage_collection_is_relaxed_only_while_loading(folder: Path) -> None:
    (folder / "frugal.py").write_text(
        "import asyncio, gc\n"
        "from chutes.chute import Chute\n"
        "chute = Chute(username='me', name='frugal', image='me/frugal:1')\n"
        "@chute.on_startup()\n"
        "async def load(self):\n"
        "    await asyncio.sleep(0.5)\n"
        "    self.loading = gc.get_threshold()\n"
        "@chute.cord(public_api_path='/seen', method='GET')\n"
        "async def seen(self):\n"
        "    return {'loading': self.loading, 'now': gc.get_threshold(), 'frozen': gc.get_freeze_count()}\n"
    )
    with running(folder, "frugal") as (process, port):
        eventually(lambda: get(port, "/ready"), process)

        def settled() -> dict[str, Any]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/seen", timeout=LIMIT) as answer:
                seen: dict[str, Any] = json.load(answer)
            assert tuple(seen["now"]) == gc.get_threshold()
            return seen

        seen = eventually(settled, process)
    assert seen["loading"][0] > 10_000
    assert seen["frozen"] > 10_000


def test_requests_cannot_forge_log_lines(folder: Path) -> None:
    with running(folder, "small.py", CHUTES_LOG_FORMAT="console") as (process, port):
        eventually(lambda: get(port, "/ready"), process)
        forged = "%0a12:00:00%20[info%20%20%20%20%20]%20forged"
        paths = [f"/a%0a%1b[31mX%9b%e2%80%ae%e2%80%a8%c2%9b{forged}", f"/hello{forged}"]
        for path in paths:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                while client.recv(65536):
                    pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    log = (folder / "log").read_text("utf-8")
    assert r"\n\x1b[31mX" in log
    assert log.replace("\n", "").isprintable()
    requests = [line for line in log.splitlines() if "forged" in line]
    assert len(requests) == len(paths)
    assert all("GET /" in line for line in requests)
