"""Encode images as files with the request in their metadata, and read that metadata back.

PNG files hold the metadata as text chunks; JPEG and WebP files hold it as JSON in EXIF's UserComment.
"""

import json
from io import BytesIO
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["jpeg", "png", "webp"]
_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow's other decoders must not see untrusted data
DEFAULT_QUALITY = 85  # of JPEG and WebP

_UTF16 = b"UNICODE\0"  # EXIF's prefix of a comment in UTF-16
_PNG_KEY = "request"


def encode_image(
    image: "Image.Image",
    file_format: Format,
    metadata: dict[str, object] | None = None,
    *,
    quality: int = DEFAULT_QUALITY,
) -> bytes:
    """Encode an RGB image as a file that contains `metadata`. The same arguments give the same bytes.

    `quality` applies to JPEG and WebP. PNG uses compression level 1: higher levels take several times as long and save
    a few percent.
    """
    from PIL import ExifTags, Image
    from PIL.PngImagePlugin import PngInfo

    metadata = metadata or {}
    buffer = BytesIO()
    if file_format == "png":
        text = PngInfo()
        for key, value in metadata.items():  # one chunk per value, for image viewers
            text.add_itxt(key, str(value))
        text.add_itxt(_PNG_KEY, json.dumps(metadata, ensure_ascii=False))  # all values with their types
        image.save(buffer, "PNG", compress_level=1, pnginfo=text)
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.Software] = str(metadata.get("software", ""))
        comment = json.dumps(metadata, ensure_ascii=False).encode("utf-16-le")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _UTF16 + comment
        image.save(buffer, file_format.upper(), quality=quality, exif=exif)
    return buffer.getvalue()


def read_metadata(data: bytes) -> dict[str, object]:
    """Return the metadata of a JPEG, PNG or WebP file that `encode_image` wrote; an empty dict for other files."""
    from PIL import ExifTags, Image

    with Image.open(BytesIO(data), formats=_PILLOW_FORMATS) as image:
        if image.format == "PNG":
            text = image.info.get(_PNG_KEY, "{}")
        else:
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
            text = comment[len(_UTF16) :].decode("utf-16-le") if comment.startswith(_UTF16) else "{}"
    metadata: dict[str, object] = json.loads(text)
    return metadata
