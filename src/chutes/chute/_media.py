"""What a request's headers say about its body: whether there is one, and of which media type.

Headers are ASGI's: pairs of bytes, names in lower case.
"""

from collections.abc import Iterable
from typing import Literal

from chutes.exception import UnsupportedMediaType

Headers = Iterable[tuple[bytes, bytes]]
BodyKind = Literal["json", "form"]
"""What a route parses its body as; None where the handler takes the request itself."""

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_EXPECTED = {
    "json": "Send the body as JSON, with Content-Type: application/json",
    "form": "Send the body as a form, with Content-Type: multipart/form-data",
}


def has_body(headers: Headers) -> bool:
    """Return whether the headers announce a body (RFC 9112, section 6.3)."""
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 \t")):
            return True
    return False


def media_type(headers: Headers) -> str:
    """Return the media type in lower case and without parameters; empty if it is missing or given twice."""
    types = [value for name, value in headers if name == b"content-type"]
    return types[0].decode("latin-1").partition(";")[0].strip().lower() if len(types) == 1 else ""


def is_json(media_type: str) -> bool:
    """Return whether a media type is `application/json` or has the suffix `+json` (RFC 6838, section 4.2.8)."""
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


def check_media_type(headers: Headers, expected: BodyKind | None) -> None:
    """Raise UnsupportedMediaType if a body is announced that the route would not parse.

    JSON without `Content-Type: application/json` is refused on purpose: any web page can make a browser send such a
    body to a server on the same machine without asking that server first.
    """
    if expected is None or not has_body(headers):
        return
    given = media_type(headers)
    if not (is_json(given) if expected == "json" else given in _FORMS):
        raise UnsupportedMediaType(_EXPECTED[expected])
