"""The outermost middleware except for CORS: request ids, the access log, and unhandled exceptions."""

import logging
import re
import string
import time
from secrets import token_hex
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chutes.exception import BadRequest, ChutesError
from chutes.server.errors import from_chutes_error, internal_error
from chutes.server.in_flight import CLIENT_CLOSED_REQUEST
from chutes.server.logs import request_id
from chutes.server.paths import MONITORING
from chutes.server.redirects import make_relative

log = logging.getLogger("chutes.access")

REQUEST_ID_PATTERN = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_TOKEN = b"!#$%&'*+-.^_`|~" + string.digits.encode() + string.ascii_letters.encode()  # RFC 9110, section 5.6.2
_TEXT = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_MAX_COOKIE_ESCAPES = 200  # backslashes

LOG_CONTEXT = "chutes.log_context"
"""Key of the ASGI scope for a dict with further fields of the access log's line; inner layers add to it."""


class AccessLogMiddleware:
    """ASGI middleware for request ids, the access log, and 500 responses to unhandled exceptions.

    The request id is the client's `X-Request-ID` if that has at most 128 letters, digits and `._:+/=-`. Otherwise it
    is random.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve and log one HTTP request; pass on everything else."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client_id, cookies = _read_headers(scope)
        current_id = client_id or token_hex(16)
        request_id.set(current_id)
        log_context: dict[str, Any] = {}
        scope[LOG_CONTEXT] = log_context
        status = 0
        complete = False

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                if 300 <= message["status"] < 400:
                    make_relative(message, scope)
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", current_id.encode())]
                _check_sendable(message)
                status = message["status"]
            elif not message.get("more_body", False):
                complete = True
            await send(message)

        started_at = time.perf_counter()
        try:
            _check_cookies(cookies)
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if isinstance(error, ChutesError):
                response = from_chutes_error(scope["path"], error)
            else:
                log.exception("Unhandled error in %s %s", scope["method"], scope["path"])
                response = internal_error(scope["path"])
            if status:
                log_context["status"] = response.status_code  # the connection closes in the middle of the response
            else:
                await response(scope, receive, send_with_id)
        finally:
            level = logging.DEBUG if scope["path"] in MONITORING else logging.INFO
            if log.isEnabledFor(level):
                log_context.setdefault("status", status if complete else CLIENT_CLOSED_REQUEST)
                log_context.update(
                    method=scope["method"], path=scope["path"], ms=_milliseconds(time.perf_counter() - started_at)
                )
                log.log(level, "%s %s %s", scope["method"], scope["path"], log_context["status"], extra=log_context)


def _check_cookies(cookies: bytes) -> None:
    """Raise BadRequest for cookies that Python before 3.12.6 unquotes in quadratic time (CVE-2024-7592)."""
    if cookies.count(b"\\") > _MAX_COOKIE_ESCAPES:
        raise BadRequest(f"The Cookie header has too many backslashes. Send at most {_MAX_COOKIE_ESCAPES}.")


def _check_sendable(message: Message) -> None:
    """Raise ValueError for a response that uvicorn cannot send.

    uvicorn itself checks a response only after it has marked it as started, which is too late for an error response.
    """
    if not 200 <= message["status"] < 600:
        raise ValueError(f"The status of a response must be from 200 to 599; got {message['status']}.")
    headers = message["headers"]
    names = [name for name, _ in headers]
    values = b"".join([value for _, value in headers])
    if b"".join(names).translate(None, _TOKEN) or values.translate(None, _TEXT) or not all(names):
        raise ValueError(f"A response header contains characters that HTTP does not allow: {headers!r:.1000}")


def _read_headers(scope: Scope) -> tuple[str | None, bytes]:
    """Return the request id that the client or a proxy sent, or None, and the cookies."""
    client_id, cookies = None, b""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID_PATTERN.fullmatch(value):
            client_id = value.decode()
        elif name == b"cookie":
            cookies += value
    return client_id, cookies


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
