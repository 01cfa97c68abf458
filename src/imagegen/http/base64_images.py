"""Decode the base64 images of request bodies: JPEG, PNG or WebP, at most 2048x2048 pixels.

The size in a file's header is checked before the pixels are decoded, so a decompression bomb costs neither time nor
memory.
"""

import base64
import re
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from imagegen.errors import ImageTooLarge, InputError
from imagegen.image_file import PILLOW_FORMATS
from imagegen.limits import MAX_SIDE

_MIN_INPUT_SIDE = 16  # pixels; one patch of the models' grid
_DATA_URL = re.compile(r"\s*data:[^,]{0,200};base64\s*,", re.IGNORECASE)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f\v"
_WHITE = (255, 255, 255, 255)
_BLACK = (0, 0, 0, 255)
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 10_000  # of a PNG; cameras and editors write tens to hundreds
_MAX_EXIF = 64 * 1024  # bytes, as much as fits into a JPEG

# Pillow warns of each broken EXIF tag, and one request can hold a megabyte of them.
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_base64(text: str, *, field: str) -> bytes:
    """Decode standard or URL-safe base64, with or without a data URL, white space and padding. Raises InputError."""
    if prefix := _DATA_URL.match(text[:256]):
        text = text[prefix.end() :]
    try:
        digits = text.encode("ascii").translate(_URL_SAFE, _WHITE_SPACE).rstrip(b"=")
        data = base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except ValueError:  # the base class of binascii.Error and UnicodeEncodeError
        raise InputError(f"{field} is not valid base64. Encode the bytes of the file as base64.", field=field) from None
    if not data:
        raise InputError(f"{field} is empty. Send an image file, encoded as base64.", field=field)
    return data


def decode_image(text: str, *, field: str) -> Image.Image:
    """Decode base64 to an RGB image, with its EXIF orientation applied and transparent pixels composited on white.

    Only the first frame of an animation is used. Raises ImageTooLarge if a side has more than 2048 pixels. Raises
    InputError if a side has fewer than 16 pixels or the file is not an image. Both name `field`.
    """
    image = _flatten(_open(decode_base64(text, field=field), field), _WHITE).convert("RGB")
    if min(image.size) < _MIN_INPUT_SIDE:
        width, height = image.size
        smallest = f"{_MIN_INPUT_SIDE}x{_MIN_INPUT_SIDE}"
        message = f"{field} is {width}x{height} pixels; at least {smallest} are needed. Scale it up."
        raise InputError(message, field=field)
    return image


def decode_mask(text: str, *, size: tuple[int, int], field: str) -> Image.Image:
    """Decode base64 to a greyscale mask (mode L), resized to `size` (width, height). Transparent pixels become black.

    Raises ImageTooLarge or InputError, which name `field`.
    """
    mask = _flatten(_open(decode_base64(text, field=field), field), _BLACK).convert("L")
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


def _has_many_chunks(data: bytes) -> bool:
    """Return whether the file is a PNG with so many chunks that Pillow would take seconds to skip them."""
    at, count = len(_PNG), 0
    while data.startswith(_PNG) and at + 8 <= len(data) and count <= _MAX_CHUNKS:
        at, count = at + 12 + int.from_bytes(data[at : at + 4]), count + 1
    return count > _MAX_CHUNKS


def _open(data: bytes, field: str) -> Image.Image:
    """Decode a JPEG, PNG or WebP of at most 2048x2048 pixels, and apply its EXIF orientation."""
    if _has_many_chunks(data):
        raise InputError(
            f"{field} is a PNG of more than {_MAX_CHUNKS} chunks. Save it again without metadata.", field=field
        )
    limit = f"{MAX_SIDE}x{MAX_SIDE}"
    try:
        image = Image.open(BytesIO(data), formats=PILLOW_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge(f"{field} is larger than {limit} pixels. Scale it down.", field=field) from None
    except UnidentifiedImageError:
        raise InputError(f"{field} is not a JPEG, PNG or WebP image. Convert it to one of them.", field=field) from None
    except Exception:  # noqa: BLE001 - a broken header makes Pillow's parsers raise all kinds of errors
        raise InputError(f"{field} is a damaged image. Save it again.", field=field) from None
    with image:
        width, height = image.size
        if max(width, height) > MAX_SIDE:
            message = f"{field} is {width}x{height} pixels; at most {limit} are accepted. Scale it down."
            raise ImageTooLarge(message, field=field)
        try:
            image.load()
        except Exception:  # noqa: BLE001 - corrupt pixels make Pillow's decoders raise all kinds of errors, too
            raise InputError(f"{field} is a truncated or damaged image. Send the complete file.", field=field) from None
        if len(image.info.get("exif", b"")) > _MAX_EXIF:
            return image.copy()
        try:
            return ImageOps.exif_transpose(image)
        except Exception:  # noqa: BLE001 - the pixels are usable without the EXIF data
            return image.copy()


def _flatten(image: Image.Image, background: tuple[int, int, int, int]) -> Image.Image:
    """Composite a transparent image on a colour, and scale 16-bit greyscale to 8 bits."""
    if image.mode.startswith("I"):  # Pillow would clip 16 bits, not scale them
        wide, transparent = np.asarray(image).astype(np.uint32), image.info.get("transparency")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
        if transparent is not None:  # one grey value
            image.putalpha(Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
    return image
