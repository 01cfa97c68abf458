"""nginx with the configuration in `deploy/nginx`, in front of a backend on this machine."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.ports import free_port
from benchmarks.harness.waiting import LIMIT, wait_for

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "nginx.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


def command(folder: Path) -> list[str]:
    """Return the command line of an nginx with its files in `folder`."""
    return [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


@contextmanager
def nginx(
    folder: Path, backend: int, *changes: tuple[str, str], listen: str = ""
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run nginx on a free port until the block ends, and yield the port and the process.

    Args:
        folder: for nginx's files.
        backend: the port that nginx forwards to.
        changes: replacements in the configuration in addition to the addresses.
        listen: options to append to the `listen` directive.
    """
    port = free_port()
    text = CONFIG.read_text()
    for old, new in (
        ("server server:8000", f"server 127.0.0.1:{backend}"),
        ("listen 8080", f"listen 127.0.0.1:{port}{listen}"),
        ("worker_processes auto", "worker_processes 1"),
        ("/tmp/", f"{folder}/"),
        *changes,
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    check = subprocess.run([*command(folder), "-t"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    # Started as root, nginx would give its files to another user, who has no access to the folder.
    process = subprocess.Popen([*command(folder), "-g", "daemon off; user root;"], stderr=subprocess.DEVNULL)

    def listens() -> bool:
        assert process.poll() is None, "nginx ended"
        try:
            socket.create_connection(("127.0.0.1", port), LIMIT).close()
        except OSError:
            return False
        return True

    try:
        wait_for(listens)
        yield port, process
    finally:
        process.terminate()
        process.wait(LIMIT)
