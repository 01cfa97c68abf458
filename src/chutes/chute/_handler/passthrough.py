"""A passthrough cord: the request goes to a server on this machine, and its answer comes back as it streams."""

from collections.abc import Iterable, Mapping

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from chutes.exception import UpstreamTimeout, UpstreamUnavailable

_CONNECT = 5.0  # seconds

# About one connection, not about the message (RFC 9110, 7.6.1), or made anew on the way.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Whose key opens this service is none of the server's behind it; it has its own, in `passthrough_headers`.
_NOT_SENT_ON = _HOP_BY_HOP | {"host", "authorization", "x-api-key", "cookie"}
# The runtime sets its own.
_NOT_SENT_BACK = _HOP_BY_HOP | {"date", "server", "x-request-id"}


async def forward(
    request: Request, method: str, url: str, headers: Mapping[str, str], read_timeout: float | None
) -> Response:
    """Send the request on and answer with the upstream's status, headers and body, piece by piece.

    `headers` replace the client's; `read_timeout` is for how many seconds the upstream may send nothing. Raises
    UpstreamUnavailable (502) or UpstreamTimeout (504) before anything was answered.
    """
    client = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(verify=False, trust_env=False),  # plain HTTP, to this machine
        timeout=httpx.Timeout(read_timeout, connect=_CONNECT),
    )
    try:
        upstream = await client.send(
            client.build_request(
                method,
                httpx.URL(url, query=request.scope["query_string"] or None),  # an empty one would add a "?"
                headers=_outgoing(request, headers),
                content=request.stream() if _has_body(request) else None,
            ),
            stream=True,
        )
    except httpx.TimeoutException as error:
        await client.aclose()
        raise (UpstreamUnavailable if isinstance(error, httpx.ConnectTimeout) else UpstreamTimeout) from error
    except httpx.TransportError as error:
        await client.aclose()
        raise UpstreamUnavailable from error
    except BaseException:
        await client.aclose()
        raise
    return _Relay(client, upstream)


def _outgoing(request: Request, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    ours = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    dropped = _NOT_SENT_ON | {name.decode("latin-1") for name, _ in ours}
    return [*_kept(request.headers.raw, dropped), *ours]


def _kept(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[str] | set[str]) -> Iterable[tuple[bytes, bytes]]:
    return ((name.lower(), value) for name, value in headers if name.lower().decode("latin-1") not in dropped)


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


class _Relay(StreamingResponse):
    """The upstream's answer, byte by byte as it comes. The connection is closed whichever way this ends.

    An upstream that hangs up midway cuts this answer off as well.
    """

    def __init__(self, client: httpx.AsyncClient, upstream: httpx.Response) -> None:
        super().__init__(upstream.aiter_raw(), upstream.status_code)
        self.raw_headers = list(_kept(upstream.headers.raw, _NOT_SENT_BACK))
        self._client = client
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._upstream.aclose()
            await self._client.aclose()
