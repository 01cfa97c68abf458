"""The response for a handler's result."""

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel

from chutes.chute import Chute
from chutes.exception import UpstreamUnavailable

Serve = Callable[[Chute], TestClient]


class Step(BaseModel):
    i: int


@dataclass
class Data:
    when: datetime


@pytest.mark.parametrize(
    ("result", "content_type", "sent", "sent_type"),
    [
        ({"a": 1}, None, b'{"a":1}', "application/json"),
        ("hello", None, b'"hello"', "application/json"),
        (None, None, b"null", "application/json"),
        (("x", 201), None, b'["x",201]', "application/json"),
        ([Step(i=1)], None, b'[{"i":1}]', "application/json"),
        (Data(datetime(2025, 1, 2, tzinfo=UTC)), None, b'{"when":"2025-01-02T00:00:00Z"}', "application/json"),
        (float("nan"), None, b"null", "application/json"),
        ({"x": np.float32(0.5), "y": np.arange(2)}, None, b'{"x":0.5,"y":[0,1]}', "application/json"),
        (b"\x89PNG", None, b"\x89PNG", "application/octet-stream"),
        (b"\x89PNG", "image/png", b"\x89PNG", "image/png"),
        (bytearray(b"x"), "image/png", b"x", "image/png"),
        ("<p>", "text/html", b"<p>", "text/html; charset=utf-8"),
        ('{"a": 1}', "application/json", b'{"a": 1}', "application/json"),
        ({"error": 1}, "image/png", b'{"error":1}', "application/json"),
        ({"a": 1}, "application/ld+json", b'{"a":1}', "application/ld+json"),
    ],
)
def test_single_responses(
    chute: Chute, serve: Serve, result: Any, content_type: str | None, sent: bytes, sent_type: str
) -> None:
    @chute.cord(output_content_type=content_type)
    async def answer(self: Any) -> Any:
        return result

    response = serve(chute).post("/answer")
    assert (response.status_code, response.content, response.headers["content-type"]) == (200, sent, sent_type)


def test_a_response_object_is_sent_unchanged(chute: Chute, serve: Serve) -> None:
    @chute.cord(output_content_type="image/jpeg")
    async def unwell(self: Any) -> Response:
        return JSONResponse({"a": 1}, 503, headers={"x-a": "b"})

    response = serve(chute).post("/unwell")
    assert (response.status_code, response.headers["x-a"]) == (503, "b")
    assert response.headers["content-type"] == "application/json"


def test_a_return_annotation_documents_without_validating(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def other(self: Any) -> Step:
        return {"other": 1}  # type: ignore[return-value]  # what authors do

    assert serve(chute).post("/other").json() == {"other": 1}


def test_http_exceptions_keep_their_status(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    def teapot(self: Any) -> None:
        raise HTTPException(418, {"why": "tea"})

    response = serve(chute).post("/teapot")
    assert (response.status_code, response.json()) == (418, {"detail": {"why": "tea"}})


async def steps(self: Any) -> AsyncIterator[Any]:
    yield {"i": 0}
    yield Step(i=1)


def steps_plainly(self: Any) -> Iterator[Any]:
    yield {"i": 0}
    yield Step(i=1)


async def steps_response(self: Any) -> StreamingResponse:
    async def pieces() -> AsyncIterator[str]:
        self.loop_thread = threading.get_ident()
        yield '{"i":0}\n'
        yield '{"i":1}\n'

    self.handler_thread = threading.get_ident()
    return StreamingResponse(pieces(), 201, {"x-a": "b"}, media_type="application/x-ndjson")


async def steps_list(self: Any) -> list[Any]:
    return [{"i": 0}, Step(i=1)]


@pytest.mark.parametrize("handler", [steps, steps_plainly, steps_response, steps_list])
def test_streams_of_objects_are_json_lines(chute: Chute, serve: Serve, handler: Any) -> None:
    chute.cord(path="/s", stream=True)(handler)
    response = serve(chute).post("/s")
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in response.text.splitlines()] == [{"i": 0}, {"i": 1}]


def test_a_generator_streams_without_stream_true(chute: Chute, serve: Serve) -> None:
    chute.cord(path="/s")(steps)
    assert serve(chute).post("/s").text == '{"i":0}\n{"i":1}\n'


def test_a_streaming_response_runs_on_the_authors_loop(chute: Chute, serve: Serve) -> None:
    chute.cord(path="/s")(steps_response)
    response = serve(chute).post("/s")
    assert (response.status_code, response.headers["x-a"]) == (201, "b")
    assert vars(chute)["loop_thread"] == vars(chute)["handler_thread"]


@pytest.mark.parametrize(
    ("pieces", "content_type", "sent", "sent_type"),
    [
        ([b"\x00", b"\x01"], None, b"\x00\x01", "application/octet-stream"),
        ([b"\x00", b"\x01"], "video/mp4", b"\x00\x01", "video/mp4"),
        (["a", "b"], None, b"ab", "text/plain; charset=utf-8"),
        (["data: 1\n\n", "data: 2\n\n"], None, b"data: 1\n\ndata: 2\n\n", "text/event-stream; charset=utf-8"),
        ([], None, b"", "text/plain; charset=utf-8"),
        ([], "text/event-stream", b"", "text/event-stream; charset=utf-8"),
        ([{"a": 1}], "text/event-stream", b'data: {"a":1}\n\n', "text/event-stream; charset=utf-8"),
        (["a\nb"], "text/event-stream", b"data: a\ndata: b\n\n", "text/event-stream; charset=utf-8"),
        ([":"], "text/event-stream", b"data: :\n\n", "text/event-stream; charset=utf-8"),
        (["event: x\ndata: 1\n\n"], "text/event-stream", b"event: x\ndata: 1\n\n", "text/event-stream; charset=utf-8"),
    ],
)
def test_streams(
    chute: Chute, serve: Serve, pieces: list[Any], content_type: str | None, sent: bytes, sent_type: str
) -> None:
    @chute.cord(stream=True, output_content_type=content_type)
    async def stream(self: Any) -> AsyncIterator[Any]:
        for piece in pieces:
            yield piece

    response = serve(chute).post("/stream")
    assert (response.status_code, response.content, response.headers["content-type"]) == (200, sent, sent_type)


@pytest.mark.parametrize(
    ("error", "status"), [(HTTPException(404, "no"), 404), (UpstreamUnavailable(), 502), (RuntimeError("secret"), 500)]
)
def test_an_error_before_the_first_item_sets_the_status(chute: Chute, error: Exception, status: int) -> None:
    @chute.cord(stream=True)
    async def stream(self: Any) -> AsyncIterator[str]:
        raise error
        yield ""

    with TestClient(chute, raise_server_exceptions=False) as client:
        response = client.post("/stream")
    assert response.status_code == status
    assert "secret" not in response.text


def test_an_error_after_the_first_item_ends_the_stream_incomplete(chute: Chute, serve: Serve) -> None:
    @chute.cord(stream=True)
    async def stream(self: Any) -> AsyncIterator[str]:
        yield "a"
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        serve(chute).post("/stream")


@pytest.mark.parametrize(
    ("error", "detail"), [(RuntimeError("secret"), "Internal server error"), (HTTPException(400, "bad"), "bad")]
)
def test_an_error_in_a_stream_of_events_becomes_an_event(
    chute: Chute, serve: Serve, error: Exception, detail: str
) -> None:
    @chute.cord(stream=True, output_content_type="text/event-stream")
    def stream(self: Any) -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise error

    assert serve(chute).post("/stream").text == f'data: {{"a":1}}\n\nevent: error\ndata: {{"detail": "{detail}"}}\n\n'


def test_background_tasks_run_on_the_authors_loop(chute: Chute, serve: Serve) -> None:
    from starlette.background import BackgroundTask

    threads: list[str] = []

    @chute.cord()
    async def later(self: Any) -> Response:
        async def note() -> None:
            threads.append(threading.current_thread().name)

        return Response("ok", background=BackgroundTask(note))

    assert serve(chute).post("/later").text == "ok"
    assert threads == ["chute-loop"]
