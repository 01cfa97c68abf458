import fcntl
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chutes.server import job_files
from chutes.server.job_files import JobFolders, list_files, open_file, remove, remove_abandoned


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = (tmp_path / "temporary").resolve()
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A job's folder with a file, next to files that must stay private."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    folder = (tmp_path / "output").resolve()
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("fine")
    return folder


def read(folder: Path, name: str) -> str | None:
    if (file := open_file(folder, name)) is None:
        return None
    with file:
        return file.read().decode()


def test_links_inside_are_served_and_links_to_the_outside_are_not(output: Path, tmp_path: Path) -> None:
    links = {
        "inside": "sub/file",
        "inside-absolute": output / "sub" / "file",
        "inside-folder": "sub",
        "outside": "../secret/key",
        "outside-absolute": tmp_path / "secret" / "key",
        "outside-folder": tmp_path / "secret",
        "twice": "outside",
        "back": f"../secret/../{output.name}/sub/file",
        "gone": "nothing",
        "circle": "circle",
        "device": "/dev/zero",
        "process": "/proc/self/environ",
    }
    for name, target in links.items():
        (output / name).symlink_to(target)
    assert list_files(output) == (["back", "inside", "inside-absolute", "sub/file"], False)
    for name in ("back", "inside", "inside-absolute", "inside-folder/file", "sub/file", "sub/./file"):
        assert read(output, name) == "fine"
    for name in ("outside", "outside-absolute", "outside-folder/key", "twice", "gone", "circle", "device", "process"):
        assert read(output, name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "sub",
        "sub/",
        "..",
        "../secret/key",
        "sub/../sub/file",
        "/etc/passwd",
        "//etc/passwd",
        "sub/file/x",
        "\0",
        "sub/file\0",
        "\n",
        "\ud800",
        "%2e%2e/secret/key",
        "x" * 300,
        "x/" * 3000,
    ],
    ids=ascii,
)
def test_invalid_names_are_not_found(output: Path, name: str) -> None:
    assert read(output, name) is None


def test_pipes_sockets_and_devices_are_neither_listed_nor_opened(output: Path) -> None:
    os.mkfifo(output / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(output)  # the path of a socket has at most about a hundred characters
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        assert list_files(output) == (["sub/file"], False)
        assert read(output, "pipe") is None
        assert read(output, "socket") is None


@pytest.mark.parametrize("swapped", ["sub", "sub/file", ""])
def test_a_file_replaced_by_a_link_after_the_check_is_not_served(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """Between resolving the name and opening the file, another process replaces a part of its path."""
    (tmp_path / "secret" / "file").write_text("secret")
    (tmp_path / "secret" / "sub").mkdir()
    (tmp_path / "secret" / "sub" / "file").write_text("secret")
    target = {"sub": "secret", "sub/file": "secret/key", "": "secret"}[swapped]
    resolve = job_files._resolve

    def resolve_then_swap(folder: Path, name: str) -> Path | None:
        found = resolve(folder, name)
        (output / swapped).rename(tmp_path / "moved")
        (output / swapped).symlink_to(tmp_path / target)
        return found

    monkeypatch.setattr(job_files, "_resolve", resolve_then_swap)
    assert read(output, "sub/file") is None
    assert (output / "sub/file").read_text() == "secret"  # so following the link would reveal it


def test_an_output_folder_that_became_a_link_is_empty(output: Path, tmp_path: Path) -> None:
    remove(output)
    output.symlink_to(tmp_path / "secret")
    assert list_files(output) == ([], False)
    assert read(output, "key") is None


def test_names_that_no_url_can_contain_are_not_listed(output: Path) -> None:
    for name in (b"\xff", b"a\nb", b"\x1b[31m"):
        (Path(os.fsdecode(os.fsencode(output) + b"/" + name))).write_text("x")
    (output / "日本 ä.txt").write_text("x")
    assert list_files(output) == (["sub/file", "日本 ä.txt"], False)


def test_a_hundred_thousand_files_are_listed_in_part(output: Path) -> None:
    for n in range(100_000):
        os.close(os.open(output / f"{n:06}", os.O_CREAT | os.O_WRONLY))
    started_at = time.monotonic()
    names, more = list_files(output)
    seconds = time.monotonic() - started_at
    print(f"{seconds:.2f} s")
    assert (len(names), more, names) == (10_000, True, sorted(names))
    assert read(output, "099999") == ""  # files beyond the list can be fetched
    assert seconds < 30


def test_long_names_are_listed_in_part(output: Path) -> None:
    for n in range(6000):
        (output / f"{n:0250}").touch()
    names, more = list_files(output)
    assert (sum(map(len, names)) < 1.1 * (1 << 20), len(names) > 4000, more) == (True, True, True)


def test_very_deep_folders_are_listed_in_part_and_removed(output: Path) -> None:
    """2200 levels: too deep for recursion, and the path is too long for the system."""
    descriptor = os.open(output, os.O_RDONLY)
    for _ in range(2200):
        os.mkdir("d", dir_fd=descriptor)
        deeper = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = deeper
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    assert list_files(output) == (["sub/file"], False)
    assert read(output, "d/" * 2200 + "bottom") is None
    remove(output)
    assert not output.exists()


def test_removal_does_not_follow_links(output: Path, tmp_path: Path) -> None:
    (output / "link").symlink_to(tmp_path / "secret")
    remove(output)
    assert not output.exists()
    assert (tmp_path / "secret" / "key").exists()


def test_the_folder_of_a_process_is_private_and_removed_at_exit(temporary: Path) -> None:
    folders = JobFolders()
    job = folders.make("a")
    [folder] = temporary.iterdir()
    assert (job, folders.make("b")) == (folder / "a", folder / "b")
    assert folder.stat().st_mode & 0o777 == 0o700
    remove_abandoned()
    assert job.is_dir()  # its process is alive
    folders.close()
    assert list(temporary.iterdir()) == []
    assert folders.make("c").is_dir()
    folders.close()


def test_a_folder_removed_by_a_cleanup_is_created_again(temporary: Path) -> None:
    folders = JobFolders()
    remove(folders.make("a").parent)
    assert folders.make("b").is_dir()
    folders.close()


@pytest.mark.parametrize("when", ["open", "flock"])
def test_a_folder_removed_before_it_is_locked_is_created_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Another process, which starts at the same time, removes the folder as abandoned."""
    module = {"open": os, "flock": fcntl}[when]
    real, lost = getattr(module, when), []

    def lose_the_first(*args: Any, **kwargs: Any) -> Any:
        if not lost:
            lost.extend(temporary.iterdir())
            lost[0].rmdir()
        return real(*args, **kwargs)

    folders = JobFolders()
    monkeypatch.setattr(module, when, lose_the_first)
    made = folders.make("a")
    assert made.is_dir()
    assert lost != [made.parent]
    folders.close()


def test_jobs_run_without_file_locks(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    folders = JobFolders()
    assert folders.make("a").is_dir()
    assert "cannot be locked" in caplog.text
    remove_abandoned()
    assert len(list(temporary.iterdir())) == 1
    folders.close()
    assert list(temporary.iterdir()) == []


def test_only_abandoned_folders_of_this_user_are_removed(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str, mode: int = 0o700) -> Path:
        folder = temporary / name
        folder.mkdir(mode)
        (folder / "file").touch()
        return folder

    abandoned = make("chutes-jobs-abcd_123")
    others = [
        make("chutes-jobs-my_notes", 0o755),
        make("chutes-jobs-archive-2026"),
        make("chutes-job-abcd1234"),
        make("somebody"),
    ]
    target = tmp_path / "target"
    target.mkdir(0o700)
    (temporary / "chutes-jobs-aaaaaaaa").symlink_to(target)
    (temporary / "chutes-jobs-bbbbbbbb").touch(0o700)
    with monkeypatch.context() as other_user:
        other_user.setattr("os.geteuid", lambda: os.getuid() + 1)
        remove_abandoned()
        assert abandoned.exists()  # another user owns it
    remove_abandoned()
    assert not abandoned.exists()
    assert all((folder / "file").exists() for folder in others)
    assert target.exists()
    assert (temporary / "chutes-jobs-bbbbbbbb").exists()


RACE = """
import sys, tempfile
from chutes.server.job_files import JobFolders, remove_abandoned
tempfile.tempdir = sys.argv[1]
sys.stdin.readline()
for _ in range(100):
    folders = JobFolders()
    remove_abandoned()
    made = folders.make("job")
    remove_abandoned()
    assert made.is_dir(), made
    if _ < 99:
        folders.close()
print(made, flush=True)
sys.stdin.readline()
"""


def test_processes_that_start_together_keep_each_others_folders(temporary: Path) -> None:
    command = [sys.executable, "-c", RACE, str(temporary)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for process in started:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        made = [Path(process.stdout.readline().strip()) for process in started if process.stdout]
        assert all(re.fullmatch(r"chutes-jobs-\w{8}", folder.parent.name) for folder in made)
        assert len(list(temporary.iterdir())) == 4
        remove_abandoned()
        assert all(folder.is_dir() for folder in made)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    remove_abandoned()
    assert list(temporary.iterdir()) == []
