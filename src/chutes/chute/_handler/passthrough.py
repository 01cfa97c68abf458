"""Forward a request to a server on this machine, and stream its response back."""

from collections.abc import Mapping, Sequence

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from chutes.exception import UpstreamTimeout, UpstreamUnavailable

_CONNECT_TIMEOUT = 5.0  # seconds

# Headers of one connection, besides those that its `Connection` header names (RFC 9110, section 7.6.1).
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
# The client's credentials are for this service only. `passthrough_headers` hold those for the upstream.
_DROPPED_FROM_REQUEST = _HOP_BY_HOP | {"host", "authorization", "x-api-key", "cookie"}
# The runtime sets these itself.
_DROPPED_FROM_RESPONSE = _HOP_BY_HOP | {"date", "server", "x-request-id"}


async def forward(
    request: Request, method: str, url: str, headers: Mapping[str, str], read_timeout: float | None
) -> Response:
    """Forward a request, and return a response with the upstream's status, headers and streamed body.

    Args:
        request: The client's request.
        method: The HTTP method of the forwarded request.
        url: The upstream's URL, without a query.
        headers: Headers to set. They replace headers of the client with the same name.
        read_timeout: The maximum time between two parts of the upstream's response, in seconds; None for no limit.

    Raises:
        UpstreamUnavailable: The upstream cannot be reached, or closed the connection.
        UpstreamTimeout: The upstream sent no response in time.
    """
    client = httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(verify=False, trust_env=False),  # plain HTTP, to this machine
        timeout=httpx.Timeout(read_timeout, connect=_CONNECT_TIMEOUT),
    )
    try:
        upstream = await client.send(
            client.build_request(
                method,
                httpx.URL(url, query=request.scope["query_string"] or None),  # an empty one would add a "?"
                headers=_request_headers(request, headers),
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


def _request_headers(request: Request, headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return the client's headers for the upstream, with the given headers in place of the client's."""
    replacements = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    dropped = _DROPPED_FROM_REQUEST | {name.decode("latin-1") for name, _ in replacements}
    return [*_drop_headers(request.headers.raw, dropped), *replacements]


def _drop_headers(headers: Sequence[tuple[bytes, bytes]], dropped: frozenset[str]) -> list[tuple[bytes, bytes]]:
    """Return headers in lower case, except for dropped ones and those that the `Connection` header names."""
    named = (value.decode("latin-1").lower().split(",") for name, value in headers if name.lower() == b"connection")
    dropped = dropped.union(*([token.strip() for token in tokens] for tokens in named))
    return [(name.lower(), value) for name, value in headers if name.lower().decode("latin-1") not in dropped]


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


class _Relay(StreamingResponse):
    """A streamed copy of the upstream's response, which closes the upstream connection at its end or on an error.

    If the upstream closes the connection early, this response is incomplete too.
    """

    def __init__(self, client: httpx.AsyncClient, upstream: httpx.Response) -> None:
        super().__init__(upstream.aiter_raw(), upstream.status_code)
        self.raw_headers = _drop_headers(upstream.headers.raw, _DROPPED_FROM_RESPONSE)
        self._client = client
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._upstream.aclose()
            await self._client.aclose()
