"""Media types, and the headers of a request that describe its body."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple

from chutes.exception import UnsupportedMediaType

BodyKind = Literal["json", "form"]
"""How a route parses its body."""

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
SSE = "text/event-stream"
BINARY = "application/octet-stream"
TEXT = "text/plain"
MULTIPART = "multipart/form-data"
URL_ENCODED = "application/x-www-form-urlencoded"

_BODY_HEADERS = frozenset({b"content-length", b"content-type", b"content-encoding", b"transfer-encoding"})
_FORMS = (MULTIPART, URL_ENCODED)
_MAX_PARAMETERS = 20  # of a media type; Python's parsers take quadratic time for thousands
_WRONG_TYPE = {
    "json": f"The body must be JSON. Send it with Content-Type: {JSON}.",
    "form": f"The body must be a form. Send it with Content-Type: {MULTIPART}.",
}


class BodyHeaders(NamedTuple):
    """The headers of one request that describe its body.

    Attributes:
        has_body: Whether a body follows the headers (RFC 9112, section 6.3).
        length: The Content-Length in bytes, or 0.
        media_type: In lower case without parameters; empty if it is missing, repeated or has too many parameters.
        encoding: The content encodings in lower case, or an empty string.
    """

    has_body: bool
    length: int
    media_type: str
    encoding: str

    @property
    def is_json(self) -> bool:
        """Whether FastAPI parses the body as JSON. It parses only subtypes of `application`."""
        return self.media_type.startswith("application/") and is_json(self.media_type)

    def check_media_type(self, expected: BodyKind | None) -> None:
        """Raise UnsupportedMediaType if there is a body that the route would not parse.

        JSON without `Content-Type: application/json` is rejected on purpose. A web page can make a browser send such a
        body to a server on the same machine, without a CORS preflight request.
        """
        if expected is None or not self.has_body:
            return
        if not (self.is_json if expected == "json" else self.media_type in _FORMS):
            raise UnsupportedMediaType(_WRONG_TYPE[expected])


def is_json(content_type: str) -> bool:
    """Return whether the subtype is `json`, or has the suffix `+json` (RFC 6838, section 4.2.8)."""
    subtype = _media_type(content_type).partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def body_headers(headers: Iterable[tuple[bytes, bytes]]) -> BodyHeaders:
    """Parse ASGI headers, whose names are in lower case."""
    length, chunked = 0, False
    types: list[bytes] = []
    encodings: list[bytes] = []
    for name, value in headers:
        if name not in _BODY_HEADERS:
            continue
        if name == b"content-length":
            length = int(value)
        elif name == b"content-type":
            types.append(value)
        elif name == b"content-encoding":
            encodings.append(value)
        else:
            chunked = True
    is_parsable = len(types) == 1 and types[0].count(b";") <= _MAX_PARAMETERS
    media_type = _media_type(types[0].decode("latin-1")) if is_parsable else ""
    encoding = b",".join(encodings).decode("latin-1").strip().lower() if encodings else ""
    return BodyHeaders(chunked or length > 0, length, media_type, encoding)


@lru_cache(maxsize=64)
def _media_type(content_type: str) -> str:
    """Return a content type in lower case, without parameters."""
    return content_type.partition(";")[0].strip().lower()
