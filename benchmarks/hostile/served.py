"""The target of the hostile inputs: a cord for each kind of body and answer, one slot, and three jobs."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

from fastapi import Cookie, Form, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict

from chutes.chute import Chute

MIB = 1024 * 1024


class Upstream(BaseHTTPRequestHandler):
    """The upstream of the passthrough cord: it answers with length and encoding of the body."""

    def do_POST(self) -> None:
        """Read the body without decoding it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = f"{len(body)} bytes, {self.headers.get('Content-Encoding', 'identity')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
threading.Thread(target=upstream.serve_forever, daemon=True).start()

chute = Chute(username="benchmark", name="hostile", image="none", concurrency=1)


class Prompt(BaseModel):
    """A body with defaults that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = "a lighthouse"
    width: int = 512


@chute.cord(public_api_path="/generate")
async def generate(self: Any, params: Prompt) -> dict[str, Any]:
    """Accept a model."""
    return {"prompt": params.prompt[:100], "length": len(params.prompt)}


@chute.cord(public_api_path="/anything")
async def anything(self: Any, values: dict[str, Any]) -> dict[str, int]:
    """Accept any JSON object."""
    return {"values": len(values)}


@chute.cord(public_api_path="/small", max_body_bytes=MIB)
async def small(self: Any, params: Prompt) -> dict[str, int]:
    """Accept a model of at most 1 MiB."""
    return {"length": len(params.prompt)}


@chute.cord(public_api_path="/upload")
async def upload(self: Any, file: UploadFile, note: Annotated[str, Form()] = "") -> dict[str, int]:
    """Accept a multipart form with a file."""
    return {"size": len(await file.read()), "note": len(note)}


@chute.cord(
    public_api_path="/proxied", passthrough=True, passthrough_path="/echo", passthrough_port=upstream.server_port
)
async def proxied(self: Any) -> None:
    """Forward the request to another server of this machine."""


@chute.cord(public_api_path="/stream", stream=True, output_content_type="application/octet-stream")
async def stream(self: Any) -> Any:
    """Stream 64 KiB at a time without end."""
    while True:
        yield b"x" * 65_536
        await asyncio.sleep(0)


@chute.cord(public_api_path="/large")
async def large(self: Any) -> Response:
    """Answer with 32 MiB."""
    return Response(b"x" * (32 * MIB), media_type="application/octet-stream")


@chute.cord(public_api_path="/header")
async def header(self: Any) -> Response:
    """Put a line break into a response header, as a handler does that copies a client's value."""
    return Response(b"{}", headers={"X-Chosen": "one\r\nSet-Cookie: two"})


@chute.cord(public_api_path="/cookies", method="GET")
async def cookies(self: Any, request: Request, session: Annotated[str, Cookie()] = "") -> dict[str, int]:
    """Parse the request's cookies."""
    return {"cookies": len(request.cookies), "session": len(session)}


@chute.cord(public_api_path="/search", method="GET")
async def search(self: Any, request: Request) -> dict[str, int]:
    """Parse the request's query."""
    return {"parameters": len(request.query_params)}


@chute.cord(public_api_path="/wait")
async def wait(self: Any, seconds: float = 0.05) -> dict[str, float]:
    """Hold the slot for some time, as a GPU would."""
    await asyncio.sleep(seconds)
    return {"seconds": seconds}


@chute.job()
async def work(self: Any, steps: int = 1) -> dict[str, int]:
    """Return at once."""
    return {"steps": steps}


@chute.job(max_body_bytes=MIB)
async def report(self: Any, megabytes: int = 1) -> str:
    """Return a result of this size."""
    return "x" * (megabytes * 1_000_000)


@chute.job()
async def files(self: Any, output_dir: str) -> str:
    """Write a file, and a link to a file outside the folder."""
    await asyncio.to_thread(_write_files, Path(output_dir))
    return "written"


def _write_files(folder: Path) -> None:
    (folder / "picture.bin").write_bytes(b"x" * MIB)
    (folder / "outside").symlink_to("/etc/passwd")
