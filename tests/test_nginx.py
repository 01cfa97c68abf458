"""The proxy's configuration, with a real nginx in front of a test backend that stalls or streams on request."""

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.harness.nginx import CONFIG, NGINX, command, nginx
from benchmarks.harness.waiting import LIMIT, wait_for

PICTURE = b"p" * 1_500_000

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


@dataclass
class Backend:
    port: int = 0
    seen: list[str] = field(default_factory=list)
    body: bytes = b""
    offers: list[str] = field(default_factory=list)
    written: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Backend

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.state.seen.append(self.path)
        getattr(self, "on_" + self.path.partition("?")[0].strip("/"))()

    def do_POST(self) -> None:
        self.state.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def plain(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def on_health(self) -> None:
        self.plain(b"ok")

    def on_offers(self) -> None:
        self.state.offers = self.headers.get_all("Upgrade", [])
        self.plain(b"ok")

    def on_metrics(self) -> None:
        self.plain(b"secret")

    def on_picture(self) -> None:
        # With the default buffer, the kernel would take the whole response at once.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.plain(PICTURE)
        self.state.written.set()

    def on_stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        self.state.go_on.wait(LIMIT)
        self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")

    def on_slow(self) -> None:
        self.state.written.set()
        if self.connection.recv(1) == b"":
            self.state.gone.set()
        self.close_connection = True


@pytest.fixture
def backend() -> Iterator[Backend]:
    state = Backend()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    state.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxy(backend: Backend, tmp_path: Path) -> Iterator[int]:
    changes = ("client_header_timeout 10s", "client_header_timeout 1s")  # to keep the test short
    listen = " sndbuf=8k"  # so that the unread rest of a response stays in nginx
    with nginx(tmp_path, backend.port, changes, listen=listen) as (port, _):
        yield port


def get(
    port: int, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    answer = response.status, response.read(), response.headers.get("Content-Type", "")
    connection.close()
    return answer


def test_a_client_that_sends_headers_slowly_is_disconnected(proxy: int) -> None:
    slow = socket.create_connection(("127.0.0.1", proxy), LIMIT)
    began = time.monotonic()
    slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    others = 0
    closed = False
    while not closed:
        assert get(proxy, "/health")[0] == 200
        others += 1
        assert time.monotonic() - began < LIMIT, "the slow client is still there"
        try:
            slow.sendall(b"X-Slow: 1\r\n")
            slow.settimeout(0.1)
            closed = slow.recv(100) == b""
        except TimeoutError:
            pass
        except OSError:
            closed = True
    slow.close()
    print(f"the slow client was closed after {time.monotonic() - began:.1f} s; {others} others were served meanwhile")


def test_a_slow_reader_occupies_no_slot(proxy: int, backend: Backend) -> None:
    reader = socket.create_connection(("127.0.0.1", proxy), LIMIT)
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.sendall(b"GET /picture HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert backend.written.wait(LIMIT), "the backend waits for the reader"
    reader.close()
    assert get(proxy, "/picture")[1] == PICTURE


def test_a_stream_is_not_buffered(proxy: int, backend: Backend) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy, timeout=LIMIT)
    connection.request("GET", "/stream")
    response = connection.getresponse()
    assert response.read(5) == b"first"  # while the backend waits
    backend.go_on.set()
    assert response.read() == b"second"
    connection.close()


def test_the_chute_notices_a_disconnected_client(proxy: int, backend: Backend) -> None:
    client = socket.create_connection(("127.0.0.1", proxy), LIMIT)
    client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    assert backend.written.wait(LIMIT)
    client.close()
    assert backend.gone.wait(LIMIT)


def test_metrics_are_hidden(proxy: int, backend: Backend) -> None:
    assert get(proxy, "/metrics") == (404, b'{"detail": "No route matches /metrics."}', "application/json")
    assert backend.seen == []


def test_a_body_that_is_too_large_gets_the_error_of_the_chute(proxy: int, backend: Backend) -> None:
    with socket.create_connection(("127.0.0.1", proxy), LIMIT) as client:
        client.sendall(b"POST /picture HTTP/1.1\r\nHost: x\r\nContent-Length: 80000000\r\n\r\n")
        answer = client.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413")
    refusal = json.loads(answer.partition("\r\n\r\n")[2])
    assert refusal == {"detail": "The request body is too large.", "code": "body_too_large"}
    assert backend.seen == []


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /health?%b HTTP/1.1\r\nHost: x\r\n" % (b"x" * 20_000), 414, "uri_too_long"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: bcdefgh\r\n" * 100_000, 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\na: %b\r\n" % (b"x" * 1_000_000), 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\n", 400, "bad_request"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n", 400, "bad_request"),
        (b"GET /health HTTP/9.9\r\nHost: x\r\n", 400, "bad_request"),
        (b"POST /picture HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: odd\r\n", 400, "bad_request"),
        (b"TRACE /health HTTP/1.1\r\nHost: x\r\n", 405, None),
    ],
    ids=["long line", "many headers", "a long header", "no Host", "two Hosts", "version", "encoding", "TRACE"],
)
def test_an_invalid_request_never_reaches_the_chute(
    proxy: int, backend: Backend, head: bytes, status: int, code: str | None
) -> None:
    with socket.create_connection(("127.0.0.1", proxy), LIMIT) as client:
        client.sendall(head + b"\r\n")
        response = http.client.HTTPResponse(client)
        response.begin()
        refusal = json.loads(response.read())
    assert (response.status, refusal.get("code")) == (status, code)
    assert response.headers["Content-Type"] == "application/json"
    assert backend.seen == []


def test_headers_within_the_limits_pass(proxy: int) -> None:
    assert get(proxy, "/health", headers={"a": "x" * 15_000, "b": "x" * 15_000})[0] == 200
    assert get(proxy, "/health?" + "x" * 15_000)[0] == 200


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
def test_a_post_cannot_upgrade_the_connection(proxy: int, backend: Backend, offer: str) -> None:
    assert get(proxy, "/offers", "POST", b"the body", {"Connection": "Upgrade", "Upgrade": offer})[0] == 200
    assert (backend.body, backend.offers) == (b"the body", [])


def test_a_websocket_can_be_opened(proxy: int, backend: Backend) -> None:
    assert get(proxy, "/offers", headers={"Connection": "Upgrade", "Upgrade": "websocket"})[0] == 200
    assert backend.offers == ["websocket"]


def test_without_the_chute_the_error_has_a_retry_after_header(proxy: int, backend: Backend, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = tmp_path / "nginx.conf"
        config.write_text(config.read_text().replace(f":{backend.port}", f":{unused.getsockname()[1]}"))
        subprocess.run([*command(tmp_path), "-s", "reload"], check=True)
        answers = []

        def is_refused() -> bool:
            """Request once. For a while, a worker from before the reload may still answer 200."""
            answers.append(get(proxy, "/health"))
            return answers[-1][0] != 200

        wait_for(is_refused)
    answer = answers[-1]
    assert answer[0] == 503
    assert json.loads(answer[1]) == {
        "detail": "The service is temporarily unavailable. Try again later.",
        "code": "unavailable",
    }
    assert answer[2] == "application/json"


def test_limits_match_the_defaults_of_the_server() -> None:
    from chutes.server.settings import Settings

    text = CONFIG.read_text()
    settings = Settings()
    assert f"client_max_body_size {settings.max_body_bytes // 2**20}m;" in text
    longest = settings.queue_timeout + settings.request_timeout
    (timeout,) = (line.split()[1] for line in text.splitlines() if line.strip().startswith("proxy_read_timeout"))
    assert float(timeout.rstrip("s;")) > longest
