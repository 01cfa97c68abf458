"""Decode image files with Pillow: bounded by the size in their header, and scaled down while they are decoded.

One image at a time is decoded in the process, so that the memory for large photos does not multiply.
"""

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile

from imagegen.canvas import Size, size_like
from imagegen.errors import ImageTooLarge, InputError
from imagegen.http.images.avif import decode_avif
from imagegen.http.images.colour import to_srgb
from imagegen.http.images.stripping import JPEG, MAX_EXIF, MAX_PROFILE, PNG, StrippingError, strip
from imagegen.limits import MAX_INPUT_PIXELS, MAX_JPEG_PIXELS, MAX_SIDE

_MEGAPIXEL = 1024 * 1024
_DAMAGED = "a truncated or damaged image. Send the complete file."
_ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC"
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"heim": "HEIF", b"heis": "HEIF"}
_MAX_BRANDS = 32
_MAX_SCANNED_PIXELS = 20 * MAX_JPEG_PIXELS  # of all scans of a JPEG; progressive files have about ten scans
_BMP_RLE = {1, 2}  # Pillow decodes these compressions in Python
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = 5  # the orientations from this one on

# Pillow warns of each broken EXIF tag, and one request can hold a megabyte of them.
warnings.filterwarnings("ignore", module=r"PIL\.")
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a file.

    Args:
        field: The field of the request, for error messages.
        width: The width of the result in pixels, if the request has one; else None.
        height: The height of the result, likewise.
        min_side: The smallest side that is accepted, in pixels.
        mask: Whether the image is a mask, whose values are no colours.
    """

    field: str
    width: int | None = None
    height: int | None = None
    min_side: int = 1
    mask: bool = False

    def scaled_size(self, size: Size) -> Size:
        """Return the size to which a file of this size is scaled: its own up to 2048x2048."""
        if max(size) <= MAX_SIDE:
            return size
        if self.width is None and self.height is None:
            return round(size[0] * MAX_SIDE / max(size)) or 1, round(size[1] * MAX_SIDE / max(size)) or 1
        return size_like(size, self.width, self.height)

    def error(self, problem: str) -> InputError:
        """Return an error that starts with the field's name."""
        return InputError(f"{self.field} is {problem}", field=self.field)

    def too_large(self, size: str) -> ImageTooLarge:
        """Return the error of an image of too many pixels."""
        limits = f"{MAX_INPUT_PIXELS // _MEGAPIXEL} megapixels are accepted, {MAX_JPEG_PIXELS // _MEGAPIXEL} of a JPEG"
        return ImageTooLarge(f"{self.field} is {size}; at most {limits}. Scale it down.", field=self.field)


def decode(data: bytes, wanted: Wanted) -> tuple[Image.Image, Size]:
    """Decode a file to an upright image of mode L, LA, RGB, RGBA or CMYK, and return it with its size in the file.

    An image beyond 2048 pixels a side is scaled to the wanted size, and cropped to its proportions. Raises InputError
    or ImageTooLarge.
    """
    with _one_at_a_time:
        try:
            stripped = strip(data)
        except StrippingError as error:
            raise wanted.error(f"{error}. Save it again without metadata.") from None
        with _open(stripped.data, wanted) as file:
            orientation = _orientation(file)
            size = _turned(file.size, orientation)
            _check_size(file, size, stripped.scans, wanted)
            target = wanted.scaled_size(size)
            if min(target) < wanted.min_side:
                raise wanted.error("{}x{} pixels, too long and narrow. Crop it.".format(*size))
            image = _load(file, _turned(target, orientation), wanted)
            profile = stripped.profile or file.info.get("icc_profile")
        if stripped.other_ending is not None:  # a complete JPEG has the same pixels, whatever follows them
            with _open(stripped.other_ending, wanted) as file:
                if _load(file, _turned(target, orientation), wanted).tobytes() != image.tobytes():
                    raise wanted.error(_DAMAGED)
        if not wanted.mask and profile and len(profile) <= MAX_PROFILE:
            image = to_srgb(image, profile)
        if orientation in _TURNS:
            image = image.transpose(_TURNS[orientation])
        image.info = {}
        return image, size


def _open(data: bytes, wanted: Wanted) -> ImageFile.ImageFile:
    """Read the header of a file."""
    kind = _format(data)
    if kind is None:
        raise wanted.error(f"not a {_ACCEPTED} image. Convert it to one of them.")
    try:
        if kind == "HEIF":
            return _open_heif(data, wanted)
        return Image.open(BytesIO(data), formats=[kind])
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise wanted.too_large("an image of too many pixels") from None
    except Exception:  # noqa: BLE001 - a broken header makes Pillow's parsers raise all kinds of errors
        raise wanted.error("a damaged image. Save it again.") from None


def _format(data: bytes) -> str | None:
    """Return Pillow's name of a file's format, by its first bytes; None if it is not accepted."""
    if data[4:8] == b"ftyp":
        brands = [data[at : at + 4] for at in range(8, min(int.from_bytes(data[:4]), 4 * _MAX_BRANDS), 4)]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    starts = {JPEG: "JPEG", PNG: "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}
    return next((kind for start, kind in starts.items() if data.startswith(start)), None)


def _open_heif(data: bytes, wanted: Wanted) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile, options
    except ImportError:
        missing = "which this server cannot read: it needs the package pillow-heif. Send a JPEG instead."
        raise wanted.error(f"a HEIC image, {missing}") from None
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    file: ImageFile.ImageFile = HeifImageFile(BytesIO(data))
    return file


def _orientation(file: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or broken."""
    if file.format == "HEIF" or not 0 < len(file.info.get("exif") or b"") <= MAX_EXIF:
        return 1
    try:
        orientation = int(file.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - the pixels are usable without the EXIF data
        return 1
    return orientation if orientation in _TURNS else 1


def _turned(size: Size, orientation: int) -> Size:
    """Convert a size between file and upright image: swap the sides if the orientation turns by 90 degrees."""
    return size if orientation < _SWAPS_SIDES else (size[1], size[0])


def _check_size(file: ImageFile.ImageFile, size: Size, scans: int, wanted: Wanted) -> None:
    """Check the size in the header, before anything is decoded."""
    pixels = size[0] * size[1]
    if pixels > (MAX_JPEG_PIXELS if file.format == "JPEG" else MAX_INPUT_PIXELS):
        raise wanted.too_large("{}x{} pixels".format(*size))
    if min(size) < wanted.min_side:
        smallest = f"{wanted.min_side}x{wanted.min_side}"
        raise wanted.error("{}x{} pixels; at least {} are needed. Scale it up.".format(*size, smallest))
    if scans * pixels > _MAX_SCANNED_PIXELS:
        raise wanted.error(f"a large JPEG of {scans} scans. Save it again with fewer.")
    if file.format == "BMP" and file.info.get("compression") in _BMP_RLE and pixels > MAX_SIDE * MAX_SIDE:
        raise wanted.error("a large compressed BMP. Convert it to PNG.")


def _load(file: ImageFile.ImageFile, target: Size, wanted: Wanted) -> Image.Image:
    """Decode the pixels, and scale and crop them to the target. Both are as the file stores them."""
    size = file.size
    try:
        if target != size and file.format == "JPEG":
            file.draft(None, target)
        image = _simple_mode(_DECODERS[file.format](file) if file.format in _DECODERS else file)
    except Exception:  # noqa: BLE001 - corrupt pixels make Pillow's decoders raise all kinds of errors
        raise wanted.error(_DAMAGED) from None
    if target == size:
        return image.copy()
    scale = round(max(size) / max(image.size))  # chosen by `draft`
    box = _crop_box((size[0] / scale, size[1] / scale), target)
    # Lanczos would leave traces of white in the black parts of a mask.
    return image.resize(target, Image.Resampling.BILINEAR if wanted.mask else Image.Resampling.LANCZOS, box=box)


def _load_avif(file: Any) -> Image.Image:
    return decode_avif(file.fp.getvalue(), file.mode, file.size)


def _load_webp(file: Any) -> Image.Image:
    """Decode a WebP in 12 bytes a pixel. Pillow's `load` takes 16, and three times the size of the file."""
    pixels, _duration = file._decoder.get_next()  # noqa: SLF001 - the decoder that `load` uses
    file._decoder = None  # noqa: SLF001 - frees its canvas
    image = Image.frombuffer(file.rawmode, file.size, pixels)
    return image.convert("RGB") if image.mode == "RGBX" else image


_DECODERS: dict[str, Callable[[ImageFile.ImageFile], Image.Image]] = {"AVIF": _load_avif, "WEBP": _load_webp}


def _crop_box(size: tuple[float, float], target: Size) -> tuple[float, float, float, float]:
    """Return the largest box in the centre of an image that has the target's proportions."""
    width = min(size[0], size[1] * target[0] / target[1])
    height = min(size[1], size[0] * target[1] / target[0])
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _simple_mode(image: Image.Image) -> Image.Image:
    """Decode an image to mode L, LA, RGB, RGBA or CMYK. 16 bits are reduced to 8."""
    image.load()  # may change the mode
    if image.mode.startswith("I"):  # Pillow would clip 16 bits, not scale them
        wide, transparent = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
        if transparent is not None:  # one grey value
            image.putalpha(Image.fromarray(np.where(wide == transparent, 0, 255).astype(np.uint8)))
    elif image.has_transparency_data:
        image = image if image.mode in {"LA", "RGBA"} else image.convert("RGBA")
    elif image.mode not in {"L", "RGB", "CMYK"}:
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image
