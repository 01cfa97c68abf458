"""Strip image files of what decoding does not need, so that Pillow sees only small, known parts of them.

Some parts take Pillow seconds or gigabytes to parse, and others make it refuse a valid file. Each function makes one
pass over the file's structure, in time and memory proportional to its size.
"""

import re
import zlib
from typing import NamedTuple

MAX_EXIF = 64 * 1024  # bytes, as much as fits into a JPEG
MAX_PROFILE = 4 * 1024 * 1024  # bytes of an unpacked colour profile; those of printers have one or two MiB
MAX_SCANS = 100  # of a JPEG; progressive files have about ten
_MAX_PNG_CHUNKS = 50_000  # a large photo has a few thousand, of 8 KiB each
_MAX_JPEG_SEGMENTS = 10_000
_MAX_GIF_BLOCKS = 100_000  # before the first frame, of at most 255 bytes each

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"

_CRITICAL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_ANCILLARY_CHUNKS = {b"tRNS": 512, b"eXIf": MAX_EXIF, b"iCCP": MAX_PROFILE}  # with their largest sizes
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed byte nor a restart marker
_EOI = b"\xff\xd9"
_SOS, _APP0, _APP1, _APP2, _APP14, _APP15, _COM = 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE
_NO_LENGTH = {0x01, 0xD8}  # markers without a segment
# The entry of an EXIF block in the item list of an AVIF or HEIC file.
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)


class StrippingError(Exception):
    """The file has more parts than any camera or editor writes.

    The message lacks its subject: `decoding` puts the field's name and "is" before it.
    """


class Stripped(NamedTuple):
    """A file without the parts that decoding does not need.

    - `data`: the file.
    - `profile`: its colour profile, for PNG and JPEG.
    - `scans`: the number of scans of a JPEG.
    - `other_ending`: for a JPEG without an end marker, a copy with other bytes at its end. The JPEG is complete if both
      decode to the same pixels.
    """

    data: bytes
    profile: bytes | None = None
    scans: int = 0
    other_ending: bytes | None = None


def strip(data: bytes) -> Stripped:
    """Strip a file of any format. Raises StrippingError."""
    if data.startswith(PNG):
        return _strip_png(data)
    if data.startswith(JPEG):
        return _strip_jpeg(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return Stripped(_strip_gif(data))
    if data[4:8] == b"ftyp":  # their orientation is not in EXIF
        return Stripped(_EXIF_ITEM.sub(rb"\1skip", data))
    return Stripped(data)


def _strip_png(data: bytes) -> Stripped:
    """Keep the critical chunks, and of the ancillary ones those that change pixels, if their checksum is right."""
    view, kept, profile, at = memoryview(data), [memoryview(PNG)], None, len(PNG)
    for _ in range(_MAX_PNG_CHUNKS):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if kind in _CRITICAL_CHUNKS:
            kept.append(view[at:end])
        elif end - at - 12 <= _ANCILLARY_CHUNKS.get(kind, -1) and _has_right_checksum(view[at:end]):
            if kind == b"iCCP":
                profile = _unpack_profile(data[at + 8 : end - 4])
            else:
                kept.append(view[at:end])
        at = end
        if kind == b"IEND" or at >= len(data):
            return Stripped(b"".join(kept), profile)
    raise StrippingError(f"a PNG of more than {_MAX_PNG_CHUNKS} chunks")


def _has_right_checksum(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])


def _unpack_profile(chunk: bytes) -> bytes | None:
    """Return the colour profile of an iCCP chunk; None if it is broken or too large."""
    _name, _, packed = chunk.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(packed[1:], MAX_PROFILE + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= MAX_PROFILE else None


def _strip_jpeg(data: bytes) -> Stripped:
    """Keep the tables, the scans, EXIF and the colour profile; drop what follows the end marker.

    Phones append videos and further images after it.
    """
    view, kept, profile, at = memoryview(data), [memoryview(data)[:2]], [], 2
    scans, has_exif = 0, False
    for _ in range(_MAX_JPEG_SEGMENTS):
        found = _MARKER.search(data, at)
        marker = found.start() if found else len(data.rstrip(b"\xff"))
        if scans:  # the bytes between segments are pixels
            kept.append(view[at:marker])
        if found is None or data.startswith(_EOI, marker):
            break
        code, at = data[marker + 1], marker + 2
        if code in _NO_LENGTH:
            continue
        at += max(2, int.from_bytes(data[at : at + 2]))
        segment, content = view[marker:at], data[marker + 4 : min(at, marker + 18)]
        scans += code == _SOS
        if scans > MAX_SCANS:
            raise StrippingError(f"a JPEG of more than {MAX_SCANS} scans")
        is_exif = code == _APP1 and content.startswith(b"Exif\0\0") and not has_exif
        if code == _APP2 and content.startswith(b"ICC_PROFILE\0"):
            profile.append((content[12:13], bytes(segment[18:])))
        elif is_exif or code in {_APP0, _APP14} or not (_APP0 <= code <= _APP15 or code == _COM):
            kept.append(segment)
            has_exif |= is_exif
    else:
        raise StrippingError(f"a JPEG of more than {_MAX_JPEG_SEGMENTS} segments")
    whole = b"".join(part for _, part in sorted(profile))
    parts = Stripped(b"".join([*kept, _EOI]), whole if 0 < len(whole) <= MAX_PROFILE else None, scans)
    return parts if found else parts._replace(other_ending=_other_ending(data, kept))


def _other_ending(data: bytes, kept: list[memoryview]) -> bytes:
    """Return a JPEG with noise after its last scan: if pixels are missing, the decoder reads the noise as pixels."""
    last_scan = data.rfind(b"\xff\xda")
    restarts = sum(data.count(bytes([0xFF, code]), last_scan) for code in range(0xD0, 0xD8))
    noise = b"\xaa\x55" * 32
    return b"".join([*kept, noise, b"\xff", bytes([0xD0 + restarts % 8]), noise, _EOI])


def _strip_gif(data: bytes) -> bytes:
    """Drop all extensions before the first frame but the one with its transparent colour."""
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    kept, blocks = [data[:at]], 0
    while data[at : at + 1] == b"!":
        has_colour, at = data[at + 1 : at + 2] == b"\xf9", at + 2
        while blocks <= _MAX_GIF_BLOCKS and (size := int.from_bytes(data[at : at + 1])):
            if has_colour:
                kept.append(b"!\xf9" + data[at : at + 1 + size] + b"\0")
                has_colour = False
            at, blocks = at + 1 + size, blocks + 1
        at, blocks = at + 1, blocks + 1
        if blocks > _MAX_GIF_BLOCKS:
            raise StrippingError(f"a GIF of more than {_MAX_GIF_BLOCKS} blocks before its first frame")
    if data[at : at + 1] == b",":  # what else follows is no frame
        kept.append(data[at:])
    return b"".join(kept)
