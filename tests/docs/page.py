"""Run the code blocks of a documentation page in order, in one folder, as a reader would.

The language of a block says what happens to it:

- `python title="name.py"`: the file is written.
- `python`: the code is executed.
- `sh`: the commands run in bash. `chutes run …` starts a server, which runs until the next one or the end of the page.
- `text`, `json` or `dockerfile` below one of these: its output, where `...` stands for any text.
- `toml`, `yaml`, `js` and `http` are shown only.

`localhost:8000` stands for the server. Where a page starts none, the file that was written last is served.

A comment above a block changes this: `<!-- not run: REASON -->`, `<!-- appended -->` (to the file), `<!-- in NAME -->`
(the block is part of that file), `<!-- the server exits with code N -->`.
"""

import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.cluster import Cluster, free_port
from benchmarks.harness.fork_server import fork_server
from benchmarks.harness.server import MODULES, Server
from benchmarks.harness.waiting import LIMIT, wait_for
from chutes.deploy.cluster import LOOPBACK_ENVIRONMENT

DOCS = Path(__file__).parents[2] / "docs"

_FENCE = re.compile(
    r"^(?:[ ]*<!-- (?P<comment>[^\n]*) -->\n)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w*)(?: [^\n]*?title=\"(?P<title>[^\"]+)\")?[^\n]*\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_OUTPUT = {"text", "json", "dockerfile"}
_SHOWN = {"toml", "yaml", "js", "http"}
_ON_A_CLUSTER = re.compile(r"chutes (deploy|chutes) [^|<>&;]*")
_SERVER = re.compile(r"(localhost|127\.0\.0\.1):8000")


@dataclass(frozen=True)
class Block:
    """One code block: where it is, what it says, and the comment above it."""

    where: str
    language: str
    title: str
    comment: str
    text: str

    @property
    def reason(self) -> str:
        """Why the block is not run; empty if it is."""
        return self.comment.removeprefix("not run: ") if self.comment.startswith("not run: ") else ""


def blocks_of(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    source = page.read_text()
    name = str(page.relative_to(DOCS))
    found = []
    for match in _FENCE.finditer(source):
        line = source.count("\n", 0, match.start("language")) + 1
        text = textwrap.dedent(match["text"])
        found.append(Block(f"{name}:{line}", match["language"], match["title"] or "", match["comment"] or "", text))
    assert len(found) * 2 == len(re.findall(r"^ *```", source, re.MULTILINE)), f"{name}: a code block is not closed"
    return found


@dataclass
class Reader:
    """One who does what a page says, in a folder of their own."""

    cluster: Cluster
    imported: Sequence[str] = MODULES
    """Modules of the process from which servers are forked."""
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    port: int = 0
    output: str | None = None
    written: str = ""
    _server: Server | None = None
    _served: str = ""
    _reloads: bool = False
    _exit_code: int = 0
    _preloaded: bool = False

    @property
    def folder(self) -> Path:
        return self.cluster.folder

    def read(self, block: Block) -> None:
        """Do what one block says; an assertion names the block that fails."""
        if block.reason or block.language in _SHOWN:
            self.output = None
        elif block.language in _OUTPUT:
            self._compare(block)
        elif block.comment.startswith("in "):
            name = block.comment.removeprefix("in ")
            found, shown = (_without_indent(text) for text in ((self.folder / name).read_text(), block.text))
            assert shown in found, f"{block.where}: {name} has no such lines"
        elif block.title:
            self._write(block)
        elif block.language == "python":
            self._execute(block)
        elif block.language == "sh":
            self._run(block)
        else:
            pytest.fail(f"{block.where}: name the block's language")

    def _write(self, block: Block) -> None:
        path = self.folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        before = f"{path.read_text()}\n\n" if block.comment == "appended" else ""
        loaded = self._times_ready()
        path.write_text(before + block.text)
        if self._reloads and path.suffix == ".py":
            wait_for(lambda: self._times_ready() > loaded)
        if path.suffix == ".py" and "\nchute = " in path.read_text():
            self.written = block.title
        self.output = None

    def _execute(self, block: Block) -> None:
        text = self._addressed(block.text)
        printed = io.StringIO()
        with chdir(self.folder), redirect_stdout(printed):
            exec(compile(text, block.where, "exec"), self.names)
        self.output = printed.getvalue()

    def _run(self, block: Block) -> None:
        if re.match(r"([A-Z_]+=\S+ )*chutes run ", block.text):
            self._serve(block.where, block.text)
            return
        if block.text.startswith("chutes deploy"):
            self.stop()
        run = self._on_cluster if _ON_A_CLUSTER.fullmatch(block.text.strip()) else self._in_bash
        done = run(block.text)
        assert done.returncode == 0, f"{block.where}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        if block.comment.startswith("the server exits with code "):
            self._exit_code = int(block.comment.split()[-1])
            self.stop()
        self.output = done.stdout or done.stderr
        if block.text.startswith("chutes init"):
            self.written = done.stdout.strip()
        if block.text.startswith("chutes deploy"):
            self.port, self._served = self.cluster.port, self.written

    def _in_bash(self, commands: str) -> subprocess.CompletedProcess[str]:
        state = self.folder / ".environment"  # what a terminal keeps from one command to the next
        script = f"set -ea\n. {state}\n{self._addressed(commands)}\nexport -p > {state}"
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def _on_cluster(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run one command in a process that has imported Ray already."""
        arguments, env = self._parsed(command)
        if not self._preloaded:
            self.cluster.preload(LOOPBACK_ENVIRONMENT)
            self._preloaded = True
        return self.cluster.chutes(*arguments, check=False, env=env)

    def _parsed(self, command: str, *settings: str) -> tuple[list[str], dict[str, str]]:
        """Return the arguments and the variables that the shell would pass to `chutes`; the shell prints them."""
        prints = command.strip().removesuffix("&").replace("chutes ", "env -0; printf '%s\\0' '' ", 1)
        script = "\n".join(["set -ae", ". ./.environment", *settings, prints])
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self._environment(), capture_output=True, check=True
        )
        variables, _, arguments = done.stdout.decode().partition("\0\0")
        env = dict(each.split("=", 1) for each in variables.split("\0"))
        return arguments.removesuffix("\0").split("\0"), env

    def _serve(self, where: str, command: str) -> None:
        self.stop()
        self.port = free_port()
        arguments, env = self._parsed(command, f"CHUTES_PORT={self.port}", "CHUTES_LOG_FORMAT=json")
        process = fork_server(*self.imported).start(arguments, self.folder, env)
        self._server = Server(process)
        self._server.wait_for_port()
        self._server.wait_until_ready()
        self._served = self.written
        self._reloads = "--reload" in command
        self.output = None

    def _times_ready(self) -> int:
        return sum('"message": "Ready"' in line for line in self._server.lines) if self._server else 0

    def stop(self) -> None:
        """End the server, if there is one; it has to exit with the expected code."""
        server = self._server
        if server is None:
            return
        self._server, self._served, self._reloads = None, "", False
        server.client.close()
        if not self._exit_code:
            server.signal()
        code = server.wait()
        assert server.process.stderr is not None
        server.process.stderr.close()
        assert code == self._exit_code, "\n".join(server.lines)
        self._exit_code = 0

    def _addressed(self, text: str) -> str:
        """Return the text with the server's real address; serve the file written last if there is none."""
        if not _SERVER.search(text):
            return text
        if self._served != self.written:
            self._serve(self.written, f"chutes run {shlex.quote(self.written)}")
        return _SERVER.sub(f"127.0.0.1:{self.port}", text)

    def _compare(self, block: Block) -> None:
        assert self.output is not None, f"{block.where}: nothing above it has an output"
        expected = _SERVER.sub(f"127.0.0.1:{self.port}", block.text.strip())
        pattern = ".*?".join(re.escape(part) for part in expected.split("..."))
        found = self.output.strip().replace("localhost:", "127.0.0.1:").replace("\r\n", "\n")
        assert re.fullmatch(pattern, found, re.DOTALL), f"{block.where}: the output is\n{found}"

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{self.cluster.env['PATH']}"
        own = {"PATH": path, "HOME": str(self.folder), "COLUMNS": "80", "PYTEST_ADDOPTS": ""}
        return {**self.cluster.env, **own}


def _without_indent(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


@contextmanager
def reader(cluster: Cluster, imported: Sequence[str] = MODULES) -> Iterator[Reader]:
    """A reader in the cluster's folder, whose imports are forgotten and whose server is stopped in the end."""
    (cluster.folder / ".environment").touch()
    before = set(sys.modules)
    sys.path.insert(0, str(cluster.folder))
    who = Reader(cluster, imported)
    try:
        yield who
    finally:
        sys.path.remove(str(cluster.folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(cluster.folder):
                del sys.modules[name]
        who.stop()
