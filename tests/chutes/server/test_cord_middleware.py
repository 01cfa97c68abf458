import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import Form
from prometheus_client import REGISTRY
from starlette.background import BackgroundTask
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket

from benchmarks.harness.waiting import LIMIT
from chutes.chute import Chute
from chutes.exception import Fatal
from chutes.server import Settings, create_app
from chutes.server.access_log import LOG_CONTEXT
from chutes.server.lifecycle import ExitCode
from chutes.server.runtime import Runtime
from tests.chutes.server.asgi import Call, until

pytestmark = pytest.mark.anyio

names = iter(range(10_000))


@pytest.fixture
def chute() -> Chute:
    """A chute of its own name for each test, so that its series begin at zero."""
    chute = Chute(username="test", name=f"cords-{next(names)}", image="none", concurrency=1)
    state: Any = chute
    state.gate, state.started, state.ended = threading.Event(), threading.Event(), []
    add_quick(chute)
    add_slow(chute)
    return chute


def add_quick(chute: Chute) -> None:
    @chute.cord(public_api_path="/echo")
    async def echo(self: Any, args: dict[str, Any]) -> dict[str, Any]:
        return args

    @chute.get("/native")
    async def native() -> str:
        return "native"

    @chute.post("/native")
    async def native_body(text: dict[str, str]) -> dict[str, str]:
        return text

    @chute.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()


def add_slow(chute: Chute) -> None:
    @chute.cord(public_api_path="/wait")
    async def wait(self: Any) -> str:
        try:
            await until(self.gate.is_set)
        finally:
            self.ended.append("wait")
        return "done"

    @chute.cord(public_api_path="/block")
    async def block(self: Any) -> str:
        self.gate.wait(LIMIT)
        self.ended.append("block")
        return "done"

    @chute.cord(public_api_path="/stream", stream=True)
    async def stream(self: Any) -> AsyncIterator[str]:
        try:
            yield "first"
            await until(self.gate.is_set)
            yield "last"
        finally:
            self.ended.append("stream")

    @chute.cord(public_api_path="/later")
    async def later(self: Any) -> Response:
        async def afterwards() -> None:
            await until(self.gate.is_set)
            self.ended.append("later")

        return PlainTextResponse("now", background=BackgroundTask(afterwards))

    @chute.cord(public_api_path="/stubborn")
    async def stubborn(self: Any) -> str:
        try:
            self.started.set()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise RuntimeError("in my cleanup") from None
        return "never"


@asynccontextmanager
async def running(chute: Chute, **options: Any) -> AsyncIterator[Runtime]:
    runtime = create_app(chute, Settings(no_auth=True, **options))
    runtime.lifecycle.start()
    await runtime.lifecycle.ready.wait()
    try:
        yield runtime
    finally:
        chute.gate.set()  # type: ignore[attr-defined]
        await runtime.lifecycle.close()
        assert runtime.admission.running == runtime.admission.queued == 0


def series(chute: Chute, name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"chute_id": chute.uid, **labels}) or 0.0


async def test_a_response_reports_how_busy_the_chute_is(chute: Chute) -> None:
    async with running(chute) as app:
        call = await Call(app, "/echo").send(b'{"a": 1}').end()
        assert (call.status, call.json()) == (200, {"a": 1})
        load = [call.headers[f"x-chutes-conn-{name}"] for name in ("used", "available", "utilization")]
        assert load == ["1", "0", "1.00"]
        assert "x-chutes-conn-used" not in (await Call(app, "/native", method="GET").send().end()).headers
    assert series(chute, "invocation_total", function="echo", status="200") == 1
    assert series(chute, "invocation_duration_count", function="echo", status="200") == 1
    assert series(chute, "invocation_last_timestamp", function="echo") == pytest.approx(time.time(), abs=30)


async def test_cords_are_rejected_while_the_chute_loads_and_other_routes_are_not(chute: Chute) -> None:
    @chute.on_startup()
    async def load(self: Any) -> None:
        await until(self.gate.is_set)

    app = create_app(chute, Settings(no_auth=True))
    app.lifecycle.start()
    refused = await Call(app, "/echo").send(b"{}").end()
    assert (refused.status, refused.json()["code"]) == (503, "not_ready")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await Call(app, "/native", method="GET").send().end()).status == 200
    chute.gate.set()  # type: ignore[attr-defined]
    await app.lifecycle.ready.wait()
    assert (await Call(app, "/echo").send(b"{}").end()).status == 200
    await app.lifecycle.close()
    assert series(chute, "chutes_rejections_total", reason="not_ready") == 1


async def test_no_spelling_of_a_path_bypasses_admission(chute: Chute) -> None:
    async with running(chute, queue_size=0) as app:
        first = Call(app, "/wait").send()
        await until(lambda: app.admission.running)
        assert (await Call(app, "/echo\n").send(b"{}").end()).status == 404
        chute.root_path = "/api"
        for path in ("/echo", "/api/echo"):
            assert (await Call(app, path).send(b"{}").end()).status == 429
        assert (await Call(app, "/api/api/echo").send(b"{}").end()).status == 404
        assert (await Call(app, "/apis/echo").send(b"{}").end()).status == 404
        chute.gate.set()  # type: ignore[attr-defined]
        await first.end()
        assert (await Call(app, "/api/echo").send(b"{}").end()).status == 200


async def test_a_root_path_does_not_bypass_admission(chute: Chute) -> None:
    async with running(chute, queue_size=0) as app:
        first = Call(app, "/wait").send()
        await until(lambda: app.admission.running)
        second = Call(app, "/api/echo")
        second.scope["root_path"] = "/api"
        assert (await second.send(b"{}").end()).status == 429
        chute.gate.set()  # type: ignore[attr-defined]
        await first.end()


async def test_fatal_in_a_stream_fails_the_chute(chute: Chute) -> None:
    @chute.cord(public_api_path="/poisoned", stream=True)
    async def poisoned(self: Any) -> AsyncIterator[str]:
        yield "first"
        raise Fatal("The GPU stopped answering")

    async with running(chute) as app:
        call = Call(app, "/poisoned").send()
        await asyncio.wait([call.task])
        assert call.body == b"first"
        assert app.lifecycle.exit_code is not None
        assert await asyncio.wait_for(app.lifecycle.exit_code, LIMIT) is ExitCode.FATAL
        assert chute.failure == "The GPU stopped answering"
        assert (await Call(app, "/health", method="GET").send().end()).status == 503


async def test_slow_uploads_hold_no_slot(chute: Chute) -> None:
    async with running(chute, queue_size=0, max_body_bytes=1000) as app:
        slow = [Call(app, "/echo").send(b'{"a"', more=True) for _ in range(20)]
        await asyncio.sleep(0.02)
        assert app.admission.running == 0
        assert (await Call(app, "/echo").send(b"{}").end()).status == 200
        large = [Call(app, "/echo").send(b" " * 990, more=True) for _ in range(3)]
        await asyncio.sleep(0.02)
        too_many = await Call(app, "/echo").send(b" " * 990).end()  # beyond 3.75 times the limit
        assert (too_many.status, too_many.json()["code"]) == (429, "queue_full")
        for call in [*slow[1:], *large]:
            call.disconnect()
            await call.end()
        slow[0].send(b": 1}")
        assert (await slow[0].end()).json() == {"a": 1}
        assert (await Call(app, "/echo").send(b" " * 990 + b"{}").end()).status == 200


async def test_draining_ends_uploads(chute: Chute) -> None:
    async with running(chute) as app:
        calls = [Call(app, path).send(b"{", more=True) for path in ("/echo", "/native", "/_ping")]
        await asyncio.sleep(0.02)
        app.drain()
        for call in calls:
            await call.end()
            assert (call.status, call.headers["connection"]) == (503, "close")


async def test_an_upload_that_stalls_is_408_and_a_disconnect_is_logged_as_499(chute: Chute) -> None:
    async with running(chute, upload_timeout=0.05) as app:
        stalled = await Call(app, "/echo").send(b"{", more=True).end()
        assert (stalled.status, stalled.headers["connection"]) == (408, "close")
        for path in ("/echo", "/native", "/_ping"):  # a body that never begins, on every kind of route
            silent = await Call(app, path).end()
            assert (silent.status, silent.headers["connection"]) == (408, "close"), path
        disconnected = Call(app, "/echo").send(b"{", more=True)
        disconnected.disconnect()
        assert (await disconnected.end()).status == 0
        assert disconnected.scope[LOG_CONTEXT]["status"] == 499


async def test_a_multipart_form_of_a_native_route_is_bounded_while_it_arrives(chute: Chute) -> None:
    @chute.post("/upload")
    async def upload(name: Annotated[str, Form()]) -> str:
        return name

    multipart = {"content-type": "multipart/form-data; boundary=b"}
    field = b"--b\r\nContent-Disposition: form-data; name=name%b\r\n\r\nx\r\n"
    async with running(chute) as app:
        small = Call(app, "/upload", headers=multipart)
        for byte in field % b"" + b"--b--\r\n":
            small.send(bytes([byte]), more=True)
        assert (await small.send().end()).json() == "x"
        costly = Call(app, "/upload", headers=multipart)
        for _ in range(4):
            costly.send(field % (b";" * 4000), more=True)
        await costly.end()
        assert (costly.status, costly.json()["code"]) == (413, "body_too_complex")


async def test_a_full_queue_rejects_a_request_before_its_body_is_read(chute: Chute) -> None:
    async with running(chute, queue_size=0) as app:
        first = Call(app, "/wait").send()
        await until(lambda: app.admission.running)
        refused = await Call(app, "/echo").end()  # it never sends its body
        assert refused.status == 429
        chute.gate.set()  # type: ignore[attr-defined]
        assert (await first.end()).json() == "done"


async def test_a_queued_client_that_disconnects_is_never_started(chute: Chute) -> None:
    async with running(chute) as app:
        first = Call(app, "/wait").send()
        await until(lambda: app.admission.running)
        second = Call(app, "/wait").send()
        await until(lambda: app.admission.queued)
        second.disconnect()
        await second.end()
        assert app.admission.queued == 0
        chute.gate.set()  # type: ignore[attr-defined]
        await first.end()
        assert chute.ended == ["wait"]  # type: ignore[attr-defined]
    assert series(chute, "chutes_disconnects_total", stage="queued") == 1


async def test_a_disconnect_cancels_the_running_handler(chute: Chute) -> None:
    async with running(chute) as app:
        call = Call(app, "/wait").send()
        await until(lambda: app.admission.running)
        call.disconnect()
        await call.end()
        await until(lambda: not app.admission.running)
        assert chute.ended == ["wait"]  # type: ignore[attr-defined]
        assert (await Call(app, "/echo").send(b"{}").end()).status == 200
    assert series(chute, "invocation_total", function="wait", status="499") == 1


async def test_a_slot_is_released_only_when_the_handler_has_ended(chute: Chute) -> None:
    async with running(chute, request_timeout=2) as app:
        call = await Call(app, "/block").send().end()
        assert (call.status, call.headers["x-should-retry"]) == (504, "false")
        assert app.admission.running == 1
        waiting = Call(app, "/echo").send(b"{}")
        await until(lambda: app.admission.queued)
        chute.gate.set()  # type: ignore[attr-defined]
        assert (await waiting.end()).status == 200
        assert chute.ended == ["block"]  # type: ignore[attr-defined]


async def test_a_stream_over_the_time_limit_is_aborted(chute: Chute) -> None:
    async with running(chute, request_timeout=2) as app:
        call = await Call(app, "/stream").send().end()
        assert (call.status, call.body, call.complete) == (200, b"first", False)
        await until(lambda: not app.admission.running)
        assert chute.ended == ["stream"]  # type: ignore[attr-defined]


async def test_background_work_continues_after_a_disconnect(chute: Chute) -> None:
    async with running(chute) as app:
        call = Call(app, "/later").send()
        await until(lambda: call.complete)
        call.disconnect()
        assert app.admission.running == 1
        chute.gate.set()  # type: ignore[attr-defined]
        await call.end()
        assert chute.ended == ["later"]  # type: ignore[attr-defined]


async def test_a_handler_that_fails_while_it_is_cancelled_is_logged(
    chute: Chute, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(chute) as app:
        call = Call(app, "/stubborn").send()
        await until(chute.started.is_set)  # type: ignore[attr-defined]
        call.disconnect()
        await call.end()
        await until(lambda: not app.admission.running)
    assert "stubborn failed after its request had ended" in caplog.text


async def test_a_request_that_waits_too_long_is_503(chute: Chute) -> None:
    async with running(chute, queue_timeout=0.1) as app:
        first = Call(app, "/wait").send()
        await until(lambda: app.admission.running)
        late = await Call(app, "/echo").send(b"{}").end()
        assert (late.status, late.json()["code"]) == (503, "queue_timeout")
        chute.gate.set()  # type: ignore[attr-defined]
        await first.end()


async def test_abort_all_answers_while_the_handler_runs(chute: Chute) -> None:
    async with running(chute) as app:
        call = Call(app, "/block").send()
        await until(lambda: app.admission.running)
        app.abort_all()
        assert (await call.end()).status == 503
        assert chute.ended == []  # type: ignore[attr-defined]
        chute.gate.set()  # type: ignore[attr-defined]
        await until(lambda: not app.admission.running)


async def test_a_request_cancelled_from_outside_releases_its_slot(chute: Chute) -> None:
    async with running(chute) as app:
        for _ in range(20):
            call = Call(app, "/wait").send()
            for _ in range(len(chute.ended) % 5):  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            call.task.cancel()
            await asyncio.wait([call.task])
        await until(lambda: not app.admission.running)
        call = Call(app, "/wait").send()
        await until(lambda: app.admission.running)
        call.task.cancel()
        await asyncio.wait([call.task])
        assert call.scope[LOG_CONTEXT]["status"] == 499  # Ray cancels a request whose client has disconnected
        await until(lambda: not app.admission.running)
        assert (await Call(app, "/echo").send(b"{}").end()).status == 200


async def test_a_native_route_that_raises_cancelled_error_is_a_500(chute: Chute) -> None:
    @chute.get("/cancelled")
    async def cancelled() -> None:
        raise asyncio.CancelledError

    async with running(chute) as app:
        call = await Call(app, "/cancelled", method="GET").send().end()
        assert (call.status, call.json()["code"]) == (500, "internal_error")
        assert "x-request-id" in call.headers


async def test_a_websocket_bypasses_admission(chute: Chute) -> None:
    async with running(chute) as app:
        sent: list[str] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        scope = {"type": "websocket", "path": "/ws", "headers": [], "query_string": b"", "subprotocols": []}
        await app(scope, receive, send)
        assert sent == ["websocket.accept", "websocket.close"]
