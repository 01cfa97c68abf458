"""A body over the limit is rejected before it has arrived."""

import http.client
from pathlib import Path

from benchmarks.harness.server import Server, serving
from benchmarks.harness.waiting import LIMIT

ECHO = """
@chute.cord(public_api_path="/size")
async def size(self, text: str) -> int:
    return len(text)

@chute.post("/native")
async def native(text: dict) -> int:
    return len(text["text"])
"""

MAX_BODY_BYTES = 100_000


def answer_to(server: Server, sent: bytes) -> bytes:
    with server.connect() as client:
        client.sendall(sent)
        received = b""
        while not received.endswith(b"}") and (piece := client.recv(4096)):
            received += piece
        return received


def test_a_content_length_over_the_limit_is_rejected_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, ECHO, max_body_bytes=MAX_BODY_BYTES) as server:
        for path in (b"/size", b"/native", b"/v1/nowhere"):
            head = b"POST %s HTTP/1.1\r\nHost: localhost\r\n"
            head += b"Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n{"
            answer = answer_to(server, head % path)
            assert answer.startswith(b"HTTP/1.1 413"), (path, answer)
            assert b"connection: close" in answer.lower()
            assert b"body_too_large" in answer


def test_a_chunked_body_over_the_limit_is_rejected(tmp_path: Path) -> None:
    chunk = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"
    with serving(tmp_path, ECHO, max_body_bytes=MAX_BODY_BYTES) as server:
        for path in (b"/size", b"/native"):
            head = b"POST %s HTTP/1.1\r\nHost: localhost\r\n"
            head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer = answer_to(server, head % path + chunk * 20)
            assert answer.startswith(b"HTTP/1.1 413"), (path, answer)


def test_the_limit_is_exact(tmp_path: Path) -> None:
    frame = len('{"text":""}')
    with serving(tmp_path, ECHO, max_body_bytes=MAX_BODY_BYTES) as server:
        for path in ("/size", "/native"):
            fits = b'{"text":"' + b"x" * (MAX_BODY_BYTES - frame) + b'"}'
            headers = {"Content-Type": "application/json"}
            assert server.post(path, json=None, content=fits, headers=headers).json() == MAX_BODY_BYTES - frame
            assert server.post(path, json=None, content=b" " + fits, headers=headers).status_code == 413


def test_an_unauthorized_client_that_sends_its_whole_body_reads_the_response(tmp_path: Path) -> None:
    with serving(tmp_path, ECHO, api_keys="a-key") as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)
        headers = {"Content-Type": "application/json", "Connection": "close"}
        client.request("POST", "/size", b"x" * 4_000_000, headers)  # more than the buffers of the sockets hold
        assert client.getresponse().status == 401
        client.close()


def test_a_client_that_sends_its_whole_body_reads_the_response(tmp_path: Path) -> None:
    with serving(tmp_path, ECHO, max_body_bytes=MAX_BODY_BYTES) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)
        client.request("POST", "/size", b"x" * (20 * MAX_BODY_BYTES), {"Content-Type": "application/json"})
        assert client.getresponse().status == 413
        client.close()
        assert server.get("/health").status_code == 200
