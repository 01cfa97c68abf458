"""Check forms before they are parsed, which happens in one go on the server's event loop."""

import asyncio
import re

from chutes.chute._handler.media import MULTIPART, URL_ENCODED
from chutes.exception import BodyTooComplex

_SLICE = 1 << 20  # bytes scanned at once
_OVERLAP = 8 * 1024  # longer than a part's header may be
_MAX_MARKS = 200_000  # fields and escapes of a URL-encoded form
_MAX_PARAMETERS = 10_000  # of all parts of a multipart form
_DISPOSITION = re.compile(rb"^content-disposition:[^\n]*", re.IGNORECASE | re.MULTILINE)
_CLOSE = {"Connection": "close"}


async def check_form(body: bytes, media_type: str) -> None:
    """Raise BodyTooComplex (413) for a form that would take long to parse; other media types pass."""
    multipart = media_type == MULTIPART
    if not multipart and media_type != URL_ENCODED:
        return
    marks = 0
    for start in range(0, len(body), _SLICE):
        if start:
            await asyncio.sleep(0)
        if multipart:
            part = body[start : start + _SLICE + _OVERLAP]
            marks += sum(found[0].count(b";") for found in _DISPOSITION.finditer(part))
        else:
            part = body[start : start + _SLICE]
            marks += part.count(b"%") + part.count(b"&")
        if marks > (_MAX_PARAMETERS if multipart else _MAX_MARKS):
            what = f"{_MAX_PARAMETERS} parameters" if multipart else f"{_MAX_MARKS} fields and escapes"
            raise BodyTooComplex(f"The form has more than {what}", headers=_CLOSE)
