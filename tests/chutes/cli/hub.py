"""A double of the Hugging Face Hub: the endpoints that its client uses, with files in memory."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """A model: its files, and the token that it requires."""

    files: dict[str, bytes]
    token: str | None = None


@dataclass
class Hub:
    """The models of the double, and the files that were downloaded.

    `broken` is the status of all responses. Files in `corrupted` arrive with their first byte changed.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    broken: int | None = None
    corrupted: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)
    url: str = ""


def checksum(path: str, data: bytes) -> str:
    """Return what identifies a file's content: SHA-256 for large files, else Git's SHA-1."""
    if path.endswith(".safetensors"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path: str, data: bytes) -> dict[str, object]:
    """Return a file's entry in the list of a repository's files."""
    found: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": checksum(path, data)}
    if path.endswith(".safetensors"):
        found |= {"oid": "0" * 40, "lfs": {"oid": checksum(path, data), "size": len(data), "pointerSize": 130}}
    return found


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does, its error codes in headers included."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/").removeprefix("api/models/")
        name = "/".join(path.split("/")[:2])
        rest = path.removeprefix(name).strip("/")
        repo = self.hub.repos.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if self.hub.broken:
            self.answer(self.hub.broken)
        elif token == "rubbish":
            self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
        elif repo is None:
            self.answer(404 if token else 401, X_Error_Code="RepoNotFound")
        elif repo.token not in {None, token} and not rest.startswith("tree"):
            self.answer(403 if token else 401, X_Error_Code="GatedRepo")
        else:
            self.content(name, repo, rest)

    def content(self, name: str, repo: Repo, rest: str) -> None:
        if rest.startswith("resolve/"):
            path = rest.split("/", 2)[2]
            data = repo.files[path]
            if self.command == "GET":
                self.hub.fetched.append(path)
            etag = f'"{checksum(path, data)}"'
            if path in self.hub.corrupted:
                data = bytes([data[0] ^ 1]) + data[1:]
            self.answer(200, data, ETag=etag, X_Repo_Commit=COMMIT)
        elif rest.startswith("tree/"):
            entries = [entry(path, data) for path, data in repo.files.items()]
            self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
        else:
            info = {"id": name, "sha": COMMIT, "siblings": []}
            self.answer(200, json.dumps(info).encode(), Content_Type="application/json")


@contextmanager
def serve(repos: dict[str, Repo]) -> Iterator[Hub]:
    """Run the double on a free port of this machine."""
    hub = Hub(repos)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
