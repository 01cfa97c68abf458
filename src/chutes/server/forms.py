"""Limits on forms, checked before Starlette parses a form in one step on the server's event loop."""

import asyncio
import re

from chutes.chute._handler.media import MULTIPART, URL_ENCODED
from chutes.exception import BodyTooComplex

FORMS = frozenset({MULTIPART, URL_ENCODED})

_SLICE = 1 << 20  # bytes scanned before other requests get a turn
_MAX_LINE = 8 * 1024  # bytes; longer than the parser accepts for a header of a part
_MAX_SEPARATORS = 200_000  # `&` and `%` of a URL-encoded form
_MAX_PARAMETERS = 10_000  # of all Content-Disposition headers of a multipart form
_DISPOSITION = re.compile(rb"^content-disposition:[^\n]*", re.IGNORECASE | re.MULTILINE)


class FormScan:
    """A counter of the parts that make a form slow to parse. It reads the body piece by piece."""

    def __init__(self, media_type: str) -> None:
        self._is_multipart = media_type == MULTIPART
        self._count = 0
        self._line = b""  # the last line so far, which may continue in the next piece

    def feed(self, piece: bytes) -> None:
        """Scan the next piece of the body. Raise BodyTooComplex (413) if the form has too many parameters or fields."""
        if self._is_multipart:
            lines, newline, rest = (self._line + piece).rpartition(b"\n")
            self._line = rest[-_MAX_LINE:]
            self._count += sum(found[0].count(b";") for found in _DISPOSITION.finditer(lines + newline))
        else:
            self._count += piece.count(b"%") + piece.count(b"&")
        if self._count > (_MAX_PARAMETERS if self._is_multipart else _MAX_SEPARATORS):
            limit = f"{_MAX_PARAMETERS} parameters" if self._is_multipart else f"{_MAX_SEPARATORS} fields and escapes"
            raise BodyTooComplex(f"The form has more than {limit}.", headers={"Connection": "close"})


async def check_form(body: bytes, media_type: str) -> None:
    """Raise BodyTooComplex (413) for a form that would take too long to parse. Ignore other media types."""
    if media_type not in FORMS:
        return
    scan = FormScan(media_type)
    for start in range(0, len(body), _SLICE):
        if start:
            await asyncio.sleep(0)
        scan.feed(body[start : start + _SLICE])
