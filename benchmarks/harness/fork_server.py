"""Start `chutes` processes from a template process, which has imported the libraries already.

Importing torch and diffusers takes about five seconds of CPU time, and importing the runtime half a second. A forked
server saves this time. In all other respects it is a process of its own: it has its own working directory, environment,
standard error, signals and exit code.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

from benchmarks.harness.waiting import LIMIT

_MESSAGE = 1 << 20  # bytes, for a whole environment


class ForkedProcess:
    """A process that the template process forked, with the methods of `subprocess.Popen`."""

    def __init__(self, pid: int, status: socket.socket, stderr: IO[str] | None) -> None:
        self.pid = pid
        self.stderr = stderr
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process, and return its exit code; negative if a signal ended it."""
        if self.returncode is None:
            if timeout is not None and not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("chutes", timeout)
            self.returncode = int(self._status.recv(_MESSAGE))
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """A template process that has imported `modules`. It ends with this process, or when it is closed.

    Args:
        modules: The modules to import.
        env: The environment of the imports, if it is not that of this process.
    """

    def __init__(self, modules: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *modules],
                cwd=Path(__file__).parents[2],
                env={**(os.environ if env is None else env), "TRANSFORMERS_VERBOSITY": "error"},
                stdin=theirs.fileno(),
            )
        self.pid = self._process.pid
        atexit.register(self.close)

    def close(self) -> None:
        """End the template process. The processes that it forked continue."""
        self._socket.close()
        self._process.wait()

    def start(
        self, arguments: Sequence[str], folder: Path, env: Mapping[str, str], *, log: IO[Any] | None = None
    ) -> ForkedProcess:
        """Fork a process that runs `chutes ARGUMENTS` in `folder` with the environment `env`.

        It is the leader of a new session. Its standard error is the file `log`, or else a pipe.
        """
        if log is not None:
            return self._fork(arguments, folder, env, [log.fileno()])
        read_end, write_end = os.pipe()
        try:
            return self._fork(arguments, folder, env, [write_end], os.fdopen(read_end))
        finally:
            os.close(write_end)

    def run(self, arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run `chutes ARGUMENTS` to its end, and capture its output."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            code = self._fork(arguments, folder, env, [stderr.fileno(), stdout.fileno()]).wait(LIMIT)
            for file in (stdout, stderr):
                file.seek(0)
            return subprocess.CompletedProcess(["chutes", *arguments], code, stdout.read(), stderr.read())

    def _fork(
        self,
        arguments: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        outputs: list[int],
        stderr: IO[str] | None = None,
    ) -> ForkedProcess:
        status, their_status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with their_status:
            request = json.dumps({"arguments": arguments, "folder": str(folder), "env": dict(env)})
            socket.send_fds(self._socket, [request.encode()], [their_status.fileno(), *outputs])
        return ForkedProcess(int(status.recv(_MESSAGE)), status, stderr)


@functools.cache
def fork_server(*modules: str) -> ForkServer:
    """Return the template process with these modules; start it on the first call."""
    return ForkServer(modules)


def main() -> None:
    """Import the modules, then fork a process for each request until standard input is closed."""
    for name in sys.argv[1:]:
        import_module(name)
    gc.freeze()  # so that the garbage collector of a forked process does not copy the pages of these objects
    requests = socket.socket(fileno=0)
    wakeup, write_end = socket.socketpair()
    write_end.setblocking(False)
    handler = signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write_end.fileno())
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([requests, wakeup], [], [])
        if wakeup in ready:
            wakeup.recv(_MESSAGE)
            _report_exit_codes(running)
        if requests in ready:
            request, descriptors, _, _ = socket.recv_fds(requests, _MESSAGE, 3)
            if not request:
                return
            client, outputs = socket.socket(fileno=descriptors[0]), descriptors[1:]
            if not (pid := os.fork()):
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, handler)
                for each in (wakeup, write_end, client, *running.values()):
                    each.close()
                _run(outputs=outputs, **json.loads(request))
            for output in outputs:
                os.close(output)
            client.send(str(pid).encode())
            running[pid] = client


def _report_exit_codes(running: dict[int, socket.socket]) -> None:
    """Send the exit codes of the processes that have ended, and remove these processes from `running`."""
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(OSError), running.pop(pid) as client:
                client.send(str(os.waitstatus_to_exitcode(status)).encode())


def _run(arguments: list[str], folder: str, env: dict[str, str], outputs: list[int]) -> NoReturn:
    """Run `chutes` as `python -m chutes` does; `outputs` are its standard error and possibly its standard output."""
    from chutes.cli import app

    os.setsid()
    for descriptor, standard in zip((os.open(os.devnull, os.O_RDONLY), *outputs), (0, 2, 1), strict=False):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[:] = ["chutes", *arguments]
    sys.path[0] = folder
    app(prog_name="chutes")
    sys.exit()


if __name__ == "__main__":
    main()
