"""Decode the base64 images of request bodies: JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC."""

import base64
import re
from typing import NamedTuple

from PIL import Image

from imagegen.canvas import Size
from imagegen.errors import InputError
from imagegen.http.images.decoding import Wanted, decode

_MIN_INPUT_SIDE = 16  # pixels; one patch of the models' grid
_DATA_URL = re.compile(r"\s*data:[^,]{0,200};base64\s*,", re.IGNORECASE)
_URL = re.compile(r"\s*https?://", re.IGNORECASE)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_WHITE_SPACE = b" \t\r\n\f\v"
_WHITE = (255, 255, 255, 255)
_BLACK = (0, 0, 0, 255)


class Decoded(NamedTuple):
    """An input image.

    - `image`: its pixels, mode RGB, in sRGB.
    - `resized_from`: the width and height in the file if the image was scaled down, else None.
    """

    image: Image.Image
    resized_from: Size | None


def decode_base64(text: str, *, field: str) -> bytes:
    """Decode standard or URL-safe base64, with or without a data URL, white space and padding. Raises InputError."""
    if _URL.match(text[:256]):
        raise InputError(f"{field} is a URL. Send the file itself, encoded as base64.", field=field)
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


def decode_image(text: str, *, field: str, width: int | None = None, height: int | None = None) -> Decoded:
    """Decode base64 to an upright RGB image in sRGB, with transparent pixels composited on white.

    A photo beyond 2048 pixels a side is scaled to `width` and `height`, or else to 2048. Of an animation the first
    frame counts. Raises ImageTooLarge if a JPEG has more than 64 megapixels or another file more than 24. Raises
    InputError if a side has fewer than 16 pixels or the file is not an image. Both name `field`.
    """
    wanted = Wanted(field, width, height, min_side=_MIN_INPUT_SIDE)
    image, size = decode(decode_base64(text, field=field), wanted)
    is_scaled = wanted.scaled_size(size) != size
    return Decoded(_flatten(image, _WHITE).convert("RGB"), size if is_scaled else None)


def decode_mask(text: str, *, size: Size, field: str) -> Image.Image:
    """Decode base64 to a greyscale mask (mode L), resized to `size` (width, height). Transparent pixels become black.

    Raises ImageTooLarge or InputError, which name `field`.
    """
    image, _ = decode(decode_base64(text, field=field), Wanted(field, mask=True))
    mask = _flatten(image, _BLACK).convert("L")
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


def _flatten(image: Image.Image, background: tuple[int, int, int, int]) -> Image.Image:
    """Composite a transparent image on a colour."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
