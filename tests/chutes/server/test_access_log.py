import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from chutes.exception import QueueFull
from chutes.server.access_log import LOG_CONTEXT, AccessLogMiddleware
from chutes.server.logs import request_id


async def fine(request: Request) -> Response:
    request.scope[LOG_CONTEXT]["queue_ms"] = 12.5
    return PlainTextResponse(request_id.get())


async def crash(request: Request) -> Response:
    raise RuntimeError("secret")


async def full(*_: object) -> None:
    raise QueueFull


@pytest.fixture
def client() -> TestClient:
    app = Starlette(routes=[Route("/fine", fine), Route("/crash", crash), Route("/health", fine)])
    return TestClient(AccessLogMiddleware(app))


def line(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (record,) = [record for record in caplog.records if record.name == "chutes.access" and hasattr(record, "status")]
    return vars(record)


def test_each_request_has_an_id_and_one_log_line(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answer = client.get("/fine?q=secret")
    assert len(answer.text) == 32
    assert answer.headers["x-request-id"] == answer.text
    logged = line(caplog)
    assert (logged["method"], logged["path"], logged["status"], logged["queue_ms"]) == ("GET", "/fine", 200, 12.5)
    assert 0 < logged["ms"] < 1000
    assert "secret" not in logged["message"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-123", True), ("a" * 128, True), ("a" * 129, False), ("two words", False), ('{"a":1}', False), ("", False)],
)
def test_a_valid_request_id_of_the_client_is_kept(client: TestClient, sent: str, kept: bool) -> None:
    answer = client.get("/fine", headers={"X-Request-ID": sent})
    assert (answer.headers["x-request-id"] == sent) is kept
    assert answer.headers["x-request-id"] == answer.text


def test_an_unhandled_exception_is_a_500_with_a_log_line(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = client.get("/crash")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "secret" in caplog.text
    assert TestClient(AccessLogMiddleware(full)).get("/full").status_code == 429


def test_probes_are_logged_at_level_debug(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client.get("/health")
    assert not [record for record in caplog.records if record.name == "chutes.access"]
