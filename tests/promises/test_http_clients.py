"""Bodies of real clients are read whatever their encoding, and limits of a connection are reported."""

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from benchmarks.harness.server import Server, serving, wait_for
from benchmarks.harness.waiting import LIMIT

CHUTE = """
from fastapi import Request, Response, WebSocket
from pydantic import BaseModel

class Echo(BaseModel):
    text: str = "default"

@chute.cord(public_api_path="/echo")
async def echo(self, body: Echo) -> dict:
    return {"text": body.text}

@chute.cord(public_api_path="/headers", method="GET")
async def headers(self, request: Request) -> dict:
    return dict(request.headers)

@chute.cord(public_api_path="/small", max_body_bytes=100, max_json_values=10)
async def small(self, args: dict) -> dict:
    return {"keys": len(args)}

@chute.job(max_body_bytes=100)
async def work(self, text: str = "") -> str:
    return text

@chute.job()
async def task(self, text: str = "") -> str:
    return text

@chute.cord(public_api_path="/split")
async def split(self) -> Response:
    response = Response("x")
    response.raw_headers.append((b"x-note", b"a\\r\\nset-cookie: b=c"))
    return response

@chute.cord(public_api_path="/endless", output_content_type="text/plain", stream=True)
async def endless(self):
    while True:
        yield "x" * 65536

@chute.cord(public_api_path="/breaks", output_content_type="text/plain", stream=True)
async def breaks(self):
    yield "x"
    raise RuntimeError("broken")

@chute.websocket("/socket")
async def socket(socket: WebSocket):
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()
"""

JSON = b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("http")
    with serving(folder, CHUTE, concurrency=4, header_timeout=2, send_timeout=2) as running:
        yield running
        assert running.post("/echo", json={"text": "x"}).json() == {"text": "x"}


class Peer:
    """A client that sends raw bytes."""

    def __init__(self, server: Server, *, buffer: int = 0) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(LIMIT)
        self.socket.connect(("127.0.0.1", server.port))
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes, pause: float = 0) -> "Peer":
        """Send each item as a packet of its own, and stop if the server closes the connection."""
        try:
            for part in parts:
                self.socket.sendall(part)
                time.sleep(pause)
        except OSError:
            pass
        return self

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body of the next response."""
        while b"\r\n\r\n" not in self.received:
            self._more()
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self.received) < length:
            self._more()
        body, self.received = self.received[:length], self.received[length:]
        return int(status.split()[1]), headers, body

    def _more(self) -> None:
        if not (part := self.socket.recv(65536)):
            raise ConnectionError(f"closed after {self.received!r}")
        self.received += part

    def rest(self) -> bytes:
        """Return all bytes until the server closes the connection."""
        try:
            while True:
                self._more()
        except ConnectionError:
            return self.received


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n%s\r\n"
    return head % (path.encode(), lines, len(body), JSON) + body


# Upgrades


@pytest.mark.parametrize(
    "offer",
    [
        (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
        (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: eA==", b"Sec-WebSocket-Version: 13"),
        (b"Connection: keep-alive, UPGRADE", b"Upgrade: TLS/1.0, websocket"),
        (b"Connection: upgrade", b"Upgrade: something/new"),
    ],
)
@pytest.mark.parametrize("packets", [1, 2, 3])
def test_an_unsupported_upgrade_is_ignored(server: Server, offer: tuple[bytes, ...], packets: int) -> None:
    request = post("/echo", b'{"text": "sent"}', *offer)
    body = len(request) - 16
    cuts = {1: [request], 2: [request[:body], request[body:]], 3: [request[:30], request[30 : body + 4]]}[packets]
    cuts += [request[body + 4 :]] if packets == 3 else []
    with Peer(server) as peer:
        for _ in range(2):  # the connection stays open
            status, _, answer = peer.send(*cuts, pause=0.02).answer()
            assert (status, json.loads(answer)) == (200, {"text": "sent"})
        status, _, answer = peer.send(post("/echo", b"{}")).answer()
        assert (status, json.loads(answer)) == (200, {"text": "default"})


def test_an_ignored_upgrade_is_hidden_from_handlers_and_honors_close(server: Server) -> None:
    with Peer(server) as peer:
        head = (
            b"GET /headers HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: close, Upgrade\r\nX-Mine: 1\r\n"
        )
        _, headers, body = peer.send(head + b"\r\n").answer()
        assert headers["connection"] == "close"
        assert json.loads(body)["x-mine"] == "1"
        assert "upgrade" not in json.loads(body)
        assert peer.rest() == b""


def test_a_chunked_body_is_read_despite_an_upgrade(server: Server) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n" + JSON
    offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with Peer(server) as peer:
        status, _, body = peer.send(head + offer, b'10\r\n{"text": "sent"}\r\n', b"0\r\n\r\n", pause=0.02).answer()
        assert (status, json.loads(body)) == (200, {"text": "sent"})


def test_a_websocket_opens(server: Server) -> None:
    with Peer(server) as peer:
        key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        head = b"GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key
        status, headers, _ = peer.send(head + b"\r\n").answer()
        assert (status, headers["upgrade"]) == (101, "websocket")
        assert b"hello" in peer.rest()


def test_connect_is_rejected(server: Server) -> None:
    with Peer(server) as peer:
        assert peer.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n").answer()[0] == 400
        assert peer.rest() == b""


# Limits of the head


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 16_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET /?" + b"a" * 5_000_000, 414),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 99 + b"\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 60_000 + b"\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 66_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 50_000_000, 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"b" * 50_000_000, 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"abcdef: 1234\r\n" * 3_000_000, 431),
        (b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\n" + b"abcdef: 1234\r\n" * 300, 431),
        (b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + b"abcdef: 1234\r\n" * 300, 431),
    ],
    ids=range(12),
)
def test_the_head_of_a_request_is_limited(server: Server, head: bytes, status: int) -> None:
    with Peer(server) as peer:
        received, headers, body = peer.send(head).answer()
        assert received == status
        if status >= 400:
            error = json.loads(body)
            assert error["error"]["message"] if "/v1" in head[:8].decode() else error["detail"]
        if status in {414, 431}:
            assert headers["connection"] == "close"
            assert peer.rest() == b""


@pytest.mark.parametrize(
    "body",
    [
        b"0\r\n" + b"abcdef: 1234\r\n" * 300_000,
        b"0\r\nA: " + b"b" * 5_000_000,
        b"1;" + b"x" * 5_000_000,
    ],
    ids=["trailers", "trailer", "chunk extension"],
)
def test_chunk_extensions_and_trailers_are_limited(server: Server, body: bytes) -> None:
    with Peer(server) as peer:
        head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n" + JSON + b"\r\n"
        assert peer.send(head + body).answer()[0] == 431


def test_trailers_become_headers_of_no_request(server: Server) -> None:
    first = b"GET /headers HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: 1\r\n\r\n"
    second = b"GET /headers HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Peer(server) as peer:
        peer.send(first + second)
        for _ in range(2):
            status, _, body = peer.answer()
            assert status == 200
            assert "x-trailer" not in json.loads(body)


def test_an_invalid_pipelined_request_does_not_break_the_first_response(server: Server) -> None:
    with Peer(server) as peer:
        peer.send(post("/echo", b'{"text": "good"}') + b"\x00\x01\r\n\r\n")
        status, _, body = peer.answer()
        assert (status, json.loads(body)) == (200, {"text": "good"})
        peer.rest()


def test_pipelined_requests_are_bounded_and_answered_in_order(server: Server) -> None:
    one = b"GET /headers HTTP/1.1\r\nHost: localhost\r\nX-Number: %d\r\n\r\n"
    with Peer(server) as peer:
        peer.send(b"".join(one % i for i in range(5000)))
        numbers = []
        try:
            while True:
                numbers.append(int(json.loads(peer.answer()[2])["x-number"]))
        except ConnectionError:
            pass
        assert 10 <= len(numbers) < 1000
        assert numbers == list(range(len(numbers)))


def test_cookies_that_take_quadratic_time_are_rejected(server: Server) -> None:
    for path in ("/health", "/headers"):
        honest = server.get(path, headers={"Cookie": 'a="' + "\\054" * 100 + '"; b=c'})
        assert honest.status_code == 200
        hostile = server.get(path, headers={"Cookie": 'a="' + "\\" * 48_000 + '"'})
        assert (hostile.status_code, hostile.json()["code"]) == (400, "bad_request")


# Time


@pytest.mark.parametrize("head", [b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: loc"])
def test_headers_that_never_end_are_408(server: Server, head: bytes) -> None:
    with Peer(server) as peer:
        status, headers, _ = peer.send(head).answer()
        assert (status, headers["connection"]) == (408, "close")
        assert peer.rest() == b""


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
def test_a_silent_connection_is_closed(server: Server, sent: bytes) -> None:
    with Peer(server) as peer:
        assert peer.send(sent).rest() == b""


def test_headers_sent_a_byte_at_a_time_are_408(server: Server) -> None:
    with Peer(server) as peer:
        peer.send(b"GET /health HTTP/1.1\r\nA: ")
        peer.socket.settimeout(0.05)
        while not peer.received:
            with contextlib.suppress(TimeoutError):
                peer.send(b"b")._more()
        peer.socket.settimeout(LIMIT)
        assert peer.answer()[0] == 408


def test_the_rest_of_an_answered_body_is_not_awaited(server: Server) -> None:
    with Peer(server) as peer:
        head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
        assert peer.send(head).answer()[0] == 404
        assert peer.rest() == b""


def test_a_client_that_stops_reading_releases_its_slot(server: Server) -> None:
    before = server.metric("chutes_disconnects_total", stage="running")
    with Peer(server, buffer=4096) as peer:
        peer.send(post("/endless", b""))
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        wait_for(lambda: server.metric("chutes_in_flight") == 0)
    assert server.metric("chutes_disconnects_total", stage="running") == before + 1


# Encodings, media types and limits of a body


def test_gzip_bodies_are_decoded(server: Server) -> None:
    body = gzip.compress(b'{"text": "packed"}')
    for path in ("/echo", "/jobs/work"):
        with Peer(server) as peer:
            status, _, answer = peer.send(post(path, body, b"Content-Encoding: gzip")).answer()
            assert status in {200, 202}, answer
            assert path != "/echo" or json.loads(answer) == {"text": "packed"}


@pytest.mark.parametrize("path", ["/echo", "/jobs/task"])
@pytest.mark.parametrize(
    ("body", "headers", "status", "names"),
    [
        (b"{}", {"Content-Encoding": "br"}, 415, "br"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "gzip"),
        (gzip.compress(bytes(100_000_000)), {"Content-Encoding": "gzip"}, 413, "bytes"),
        (b"{}", {"Content-Type": "text/plain;a=json"}, 415, "application/json"),
        (b"{}", {"Content-Type": "text/json"}, 415, "application/json"),
        (b"{}", {"Content-Type": ""}, 415, "application/json"),
        (b"[" + b"1," * 60_000, {}, 413, "50000"),
        (b'{"text": "' + b"9" * 700 + b'", "x": ' + b"9" * 641 + b"}", {}, 422, "640"),
    ],
    ids=range(8),
)
def test_an_unsupported_body_is_rejected(
    server: Server, path: str, body: bytes, headers: dict[str, str], status: int, names: str
) -> None:
    answer = server.post(path, json=None, content=body, headers={"Content-Type": "application/json", **headers})
    assert answer.status_code == status, answer.text
    assert names in answer.text
    assert len(answer.content) < 2500


def test_without_a_body_the_media_type_does_not_matter(server: Server) -> None:
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "text/plain", "Content-Length": "0"}):
        assert server.post("/echo", json=None, headers=headers).json() == {"text": "default"}


def test_a_media_type_is_rejected_before_the_body_is_sent(server: Server) -> None:
    with Peer(server) as peer:
        head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 1000000\r\n\r\n"
        assert peer.send(head).answer()[0] == 415


def test_a_cord_and_a_job_can_have_their_own_limits(server: Server) -> None:
    assert server.post("/small", json={"a": 1}).json() == {"keys": 1}
    assert server.post("/small", json={"a": "x" * 100}).status_code == 413
    assert server.post("/small", json=dict.fromkeys("abcdef", 1)).json()["code"] == "body_too_complex"
    assert server.post("/jobs/work", json={"text": "x" * 100}).json()["code"] == "body_too_large"
    packed = gzip.compress(b'{"a": "' + b"x" * 1000 + b'"}')
    answer = server.post(
        "/small", json=None, content=packed, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
    )
    assert answer.json()["code"] == "body_too_large"


# Responses


def test_a_response_that_cannot_be_sent_is_500(server: Server) -> None:
    answer = server.post("/split")
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers
    wait_for(lambda: any(line.get("path") == "/split" for line in server.log))
    (logged,) = [line for line in server.log if line.get("path") == "/split"]
    assert logged["status"] == 500
    assert any("x-note" in line.get("exception", "") for line in server.log)
    assert server.metric("invocation_total", function="split", status="500") == 1


def test_a_broken_stream_is_logged_and_counted_as_failed(server: Server) -> None:
    with Peer(server) as peer:
        peer.send(post("/breaks", b""))
        assert b"200 OK" in peer.rest()
    wait_for(lambda: any(line.get("path") == "/breaks" for line in server.log))
    (logged,) = [line for line in server.log if line.get("path") == "/breaks"]
    assert logged["status"] == 500
    assert server.metric("invocation_total", function="breaks", status="500") == 1


def test_a_stream_over_the_time_limit_is_logged_and_counted_as_504(tmp_path: Path) -> None:
    with serving(tmp_path, CHUTE, request_timeout=1) as server:
        with Peer(server) as peer:
            peer.send(post("/endless", b"")).rest()
        wait_for(lambda: any(line.get("path") == "/endless" for line in server.log))
        (logged,) = [line for line in server.log if line.get("path") == "/endless"]
        assert logged["status"] == 504
        assert server.metric("invocation_total", function="endless", status="504") == 1


def test_invalid_requests_are_logged_with_their_peer_and_rate_limited(tmp_path: Path) -> None:
    with serving(tmp_path, "") as server:
        for _ in range(50):
            with Peer(server) as peer:
                port = peer.socket.getsockname()[1]
                assert peer.send(b"\x00\x01\r\n\r\n").answer()[0] == 400
        assert server.get("/health").status_code == 200
        lines = [line for line in server.log if "Invalid HTTP request" in line["message"]]
        assert 1 <= len(lines) < 5
        assert "127.0.0.1:" in lines[0]["message"]
        assert port


# Pipelining, draining and memory


WAITING = """
from pathlib import Path

@chute.cord(public_api_path="/wait")
async def wait(self, number: int = 0) -> int:
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return number

@chute.get("/slow-stream")
async def slow_stream():
    async def pieces():
        yield b"first"
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        yield b"last"
    from starlette.responses import StreamingResponse
    return StreamingResponse(pieces())

@chute.job()
async def work(self, text: str = "") -> int:
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return len(text)
"""


def test_closing_a_pipelined_connection_cancels_the_running_request(tmp_path: Path) -> None:
    with serving(tmp_path, WAITING) as server:
        with Peer(server) as peer:
            peer.send(post("/wait", b"{}") + post("/wait", b"{}"))
            wait_for(lambda: server.metric("chutes_in_flight") == 1)
        wait_for(lambda: server.metric("chutes_in_flight") == 0)
        assert server.metric("invocation_total", function="wait", status="499") == 1
        assert not any("exception" in line for line in server.log)


def test_an_invalid_pipelined_request_does_not_replace_the_running_response(tmp_path: Path) -> None:
    bad = b"POST /wait HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
    with serving(tmp_path, WAITING) as server, Peer(server) as peer:
        peer.send(post("/wait", b'{"number": 7}'))
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        peer.send(bad)
        assert server.get("/health").status_code == 200
        (tmp_path / "go").touch()
        status, _, body = peer.answer()
        assert (status, json.loads(body)) == (200, 7)
        assert b"200 OK" not in peer.rest()


def test_a_response_does_not_time_out_the_next_pipelined_request(tmp_path: Path) -> None:
    second = post("/wait", b'{"number": 2}')
    with serving(tmp_path, WAITING, keep_alive=1, concurrency=2) as server, Peer(server) as peer:
        peer.send(post("/wait", b'{"number": 1}'))
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        peer.send(second[:20])
        (tmp_path / "go").touch()
        assert json.loads(peer.answer()[2]) == 1
        (tmp_path / "go").unlink()
        peer.send(second[20:])
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        time.sleep(1.5)  # longer than the keep-alive timeout
        (tmp_path / "go").touch()
        assert json.loads(peer.answer()[2]) == 2


def test_draining_finishes_streams_and_rejects_new_uploads(tmp_path: Path) -> None:
    with (
        serving(tmp_path, WAITING, drain_grace=600) as server,
        Peer(server) as running,
        Peer(server) as waiting,
        Peer(server) as peer,
    ):
        running.send(b"GET /slow-stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"first" not in running.received:
            running._more()
        waiting.send(post("/wait", b"{}"))
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        server.signal()
        wait_for(lambda: server.get("/ready").status_code == 503)
        head = b"POST /jobs/work HTTP/1.1\r\nHost: localhost\r\n" + JSON + b"Content-Length: 100\r\n\r\n{"
        assert peer.send(head).answer()[0] == 503
        (tmp_path / "go").touch()
        assert waiting.answer()[0] == 200
        assert b"last" in running.rest()
        assert server.wait() == 0


def test_draining_waits_for_routes_without_a_slot(tmp_path: Path) -> None:
    with serving(tmp_path, WAITING, drain_grace=600) as server, Peer(server) as running:
        running.send(b"GET /slow-stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"first" not in running.received:
            running._more()
        server.signal()
        time.sleep(12)  # longer than clients get to read a complete response
        (tmp_path / "go").touch()
        assert b"last" in running.rest()
        assert server.wait() == 0


def test_a_slow_reader_does_not_delay_the_exit(tmp_path: Path) -> None:
    large = '@chute.get("/large")\nasync def large():\n    from fastapi import Response\n'
    with serving(tmp_path, large + "    return Response(bytes(32_000_000))", drain_grace=86_400) as server:
        with Peer(server, buffer=4096) as slow:
            slow.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            slow._more()
            server.signal()
            while server.process.poll() is None:
                with contextlib.suppress(OSError):
                    slow.socket.recv(1024)
                time.sleep(0.2)
        assert server.wait() == 0


def test_the_memory_of_queued_requests_and_jobs_is_bounded(tmp_path: Path) -> None:
    mib = 1 << 20
    body = json.dumps({"number": 1, "padding": " " * mib}).encode()
    packed = gzip.compress(body)
    with serving(tmp_path, WAITING, max_body_bytes=2 * mib, queue_size=100) as server, contextlib.ExitStack() as peers:

        def send(request: bytes) -> None:
            peers.enter_context(Peer(server)).send(request)

        send(post("/wait", b"{}"))
        wait_for(lambda: server.metric("chutes_in_flight") == 1)
        for path in ("/wait", "/jobs/work"):
            before = server.metric("chutes_rejections_total", reason="queue_full")
            for _ in range(20):
                send(post(path, packed, b"Content-Encoding: gzip"))
                send(post(path, json.dumps({"text": " " * mib}).encode()))
            wait_for(lambda before=before: server.metric("chutes_rejections_total", reason="queue_full") > before + 20)
        (tmp_path / "go").touch()
        wait_for(lambda: server.metric("chutes_in_flight") + server.metric("chutes_queue_depth") == 0)
        with Peer(server) as peer:
            assert peer.send(post("/wait", packed, b"Content-Encoding: gzip")).answer()[0] == 200


def test_timeouts_work_without_free_file_descriptors(tmp_path: Path) -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))\n"
    with serving(tmp_path, limit, header_timeout=3) as server:
        with contextlib.ExitStack() as peers:
            for _ in range(100):
                peers.enter_context(Peer(server))
            wait_for(lambda: any("file descriptors are in use" in line["message"] for line in server.log))
        wait_for(lambda: server.get("/health").status_code == 200)
        with Peer(server) as slow:
            assert slow.send(b"GET / HTTP/1.1\r\nHost: loc").answer()[0] == 408
