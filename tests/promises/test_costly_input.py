"""Input that is cheap to send and costly to handle is rejected: WebSockets, forms, numbers, images."""

import base64
import contextlib
import gzip
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.server import Server, serving, wait_for
from benchmarks.harness.waiting import LIMIT
from imagegen.errors import InputError
from imagegen.http import base64_images

CHUTE = """
from typing import Annotated
from fastapi import Form, UploadFile, WebSocket
from pydantic import BaseModel

class Ids(BaseModel):
    ids: set[int] = set()
    bias: dict[int, int] = {}

@chute.cord(public_api_path="/ids")
async def ids(self, body: Ids) -> int:
    return len(body.ids) + len(body.bias)

@chute.cord(public_api_path="/form")
async def form(self, a: Annotated[str, Form()] = "") -> int:
    return len(a)

@chute.cord(public_api_path="/upload")
async def upload(self, file: UploadFile) -> int:
    return len(await file.read())

@chute.cord(public_api_path="/health", method="POST")
async def not_a_probe(self) -> str:
    return "secret"

@chute.get("/large")
async def large():
    from starlette.responses import Response
    return Response(bytes(8_000_000))

@chute.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    while True:
        await socket.send_text(await socket.receive_text())
"""

HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("costly"), CHUTE, max_body_bytes=16_000_000, send_timeout=3600) as running:
        yield running
        assert running.post("/ids", json={"ids": [1, 2, 2]}).json() == 2


def worst_health(server: Server, seconds: float) -> float:
    """Record the longest response time of `/health` in the block."""
    worst, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        started_at = time.monotonic()
        assert server.get("/health").status_code == 200
        worst = max(worst, time.monotonic() - started_at)
    return worst


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a frame of less than 126 bytes with a mask of zeros."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


# WebSockets


def test_a_handshake_with_an_oversized_header_is_rejected(server: Server) -> None:
    with server.connect() as client:
        client.sendall(HANDSHAKE + b"X: " + b"a" * 9000 + b"\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 4")
        while client.recv(4096):
            pass


def test_an_incomplete_handshake_does_not_delay_the_exit(tmp_path: Path) -> None:
    with serving(tmp_path, CHUTE, drain_grace=600) as server:
        clients = [server.connect() for _ in range(3)]
        for client, sent in zip(clients, (b"X: " + b"a" * 9000 + b"\r\n\r\n", b"", b"\r\n"), strict=True):
            client.sendall(HANDSHAKE + sent)
        assert server.get("/health").status_code == 200
        server.signal()
        assert server.wait() == 0
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    "flood", [frame(1, b""), frame(9, b""), frame(10, b"x" * 100), frame(9, b"x" * 100)], ids=range(4)
)
def test_a_flood_of_frames_does_not_delay_other_clients(server: Server, flood: bytes) -> None:
    with server.connect() as client:
        client.sendall(HANDSHAKE + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        client.settimeout(0.2)
        block = flood * (256 * 1024 // len(flood))
        try:
            for _ in range(20):
                client.sendall(block)
        except TimeoutError:
            pass  # the server stops reading until its responses are read
        assert worst_health(server, 2) < 5


def test_a_websocket_echo_works(server: Server) -> None:
    with server.connect() as client:
        client.sendall(HANDSHAKE + b"\r\n")
        received = client.recv(4096)
        client.sendall(frame(1, b"hello") * 2000)
        while received.count(b"hello") < 2000:
            received += client.recv(65536)


# Forms


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/form", "application/x-www-form-urlencoded", b"&".join([b"a=" + b"%41" * 300_000] * 12)),
        ("/form", "application/x-www-form-urlencoded", b"&" * 10_000_000),
        (
            "/upload",
            "multipart/form-data; boundary=b",
            (b"--b\r\nContent-Disposition: form-data; name=a" + b";" * 4000 + b"\r\n\r\nx\r\n") * 999 + b"--b--\r\n",
        ),
    ],
    ids=["escapes", "fields", "parameters"],
)
def test_a_form_that_takes_long_to_parse_is_rejected(
    server: Server, path: str, kind: str, body: bytes, packed: bool
) -> None:
    headers = {"Content-Type": kind, **({"Content-Encoding": "gzip"} if packed else {})}
    answer = server.post(path, json=None, content=gzip.compress(body) if packed else body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_complex")


def test_ordinary_forms_are_read(server: Server) -> None:
    assert server.post("/form", json=None, data={"a": "é;&%" * 1000}).json() == 4000
    assert server.post("/upload", json=None, files={"file": b";%&" * 1_000_000}).json() == 3_000_000
    kind = {"Content-Type": "application/json" + ";a=b" * 10_000}
    assert server.post("/ids", json=None, content=b"{}", headers=kind).status_code == 415


# Numbers


@pytest.mark.parametrize("as_text", [False, True])
def test_integers_with_equal_hashes_are_rejected(server: Server, as_text: bool) -> None:
    numbers = [k * (2**61 - 1) for k in range(1, 20_000)]
    ids = [str(each) for each in numbers] if as_text else numbers
    for body in ({"ids": ids}, {"bias": dict.fromkeys(map(str, numbers), 1)}):
        answer = server.post("/ids", json=body)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_complex")


def test_ordinary_large_integers_are_read(server: Server) -> None:
    assert server.post("/ids", json={"ids": [2**60 + i for i in range(20_000)]}).json() == 20_000
    assert server.post("/ids", json={"ids": [2**80 + i for i in range(20_000)]}).json() == 20_000


# Keys, responses and images


def test_a_post_to_the_path_of_a_probe_needs_a_key(tmp_path: Path) -> None:
    with serving(tmp_path, CHUTE, api_keys="sesame") as server:
        assert server.get("/health").status_code == 200
        assert server.post("/health").status_code == 401


def test_the_memory_of_unread_responses_is_bounded(server: Server) -> None:
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    clients = []
    for _ in range(20):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(LIMIT)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        clients.append(client)

    wait_for(lambda: len(list(descriptors.iterdir())) >= before + 18)
    wait_for(lambda: len(list(descriptors.iterdir())) <= before + 12)  # 64 of 160 MB may remain
    lengths = []
    for client in clients:
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 20):
                received += len(part)
                if received > 8_000_000:
                    break
        lengths.append(received)
        client.close()
    assert sum(length > 8_000_000 for length in lengths) >= 4
    assert sum(length < 8_000_000 for length in lengths) >= 8


def test_a_png_with_very_many_chunks_is_rejected() -> None:
    def chunk(kind: bytes, data: bytes = b"") -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff\0\0" * 16) * 16)) + chunk(b"IEND")
    honest = base64.b64encode(head + chunk(b"teXt", b"a") * 100 + pixels).decode()
    assert base64_images.decode_image(honest, field="image_b64").image.size == (16, 16)
    hostile = base64.b64encode(head + chunk(b"aaAa") * 500_000 + pixels).decode()
    with pytest.raises(InputError, match="chunks"):
        base64_images.decode_image(hostile, field="image_b64")


def test_a_message_that_repeats_a_value_is_shortened(server: Server) -> None:
    answer = server.post("/ids", json={"ids": {"x" * 5_000_000: 1}})
    assert answer.status_code == 422
    assert len(json.dumps(answer.json())) < 5000
