"""Valid files that Pillow refuses, hostile ones that keep it busy, and files cut or damaged anywhere."""

import base64
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from imagegen.errors import InputError
from imagegen.http.base64_images import decode_image
from imagegen.http.images import stripping
from tests.imagegen.http.profiles import DISPLAY_P3

MIB = 1024 * 1024
NOISE = Image.merge("RGB", [Image.effect_noise((96, 64), 60) for _ in range(3)])
PNG = b"\x89PNG\r\n\x1a\n"


def encode(kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(NOISE).save(buffer)
    else:
        NOISE.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(file: bytes) -> Image.Image:
    return decode_image(base64.b64encode(file).decode(), field="image_b64").image


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) if crc is None else crc)
    )


def with_chunk(extra: bytes) -> bytes:
    """Return a PNG with a chunk after its header."""
    file = encode("PNG")
    return file[:33] + extra + file[33:]


def segment(code: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def with_segment(extra: bytes) -> bytes:
    """Return a JPEG with a segment after its first marker."""
    file = encode("JPEG")
    return file[:2] + extra + file[2:]


LONG = zlib.compress(b"a" * 8 * MIB)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + LONG),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
        chunk(b"tEXt", b"Comment\0" + b"a" * 8 * MIB),
        chunk(b"iCCP", b"huge\0\0" + LONG),
        chunk(b"iCCP", b"broken\0\0not zlib"),
        chunk(b"tEXt", b"Comment\0a", crc=7),
        chunk(b"gAMA", b"\0\0\xb1\x8f", crc=7),
        chunk(b"tRNS", b"\0\1\0\2\0\3", crc=7),
        chunk(b"eXIf", b"MM\0*" + bytes(200_000)),
        chunk(b"acTL", b"damaged"),
        chunk(b"prVt", b"private") * 20_000,
    ],
    ids=lambda extra: f"{extra[4:8].decode()}-{len(extra)}",
)
def test_a_png_loads_whatever_its_ancillary_chunks_hold(extra: bytes) -> None:
    assert decode(with_chunk(extra)).tobytes() == NOISE.tobytes()


@pytest.mark.parametrize("size", [2 * MIB, 4 * MIB, 4 * MIB + 1])
def test_a_profile_counts_up_to_4_mib(size: int) -> None:
    profile = DISPLAY_P3.profile().ljust(size, b"\0")
    profile = struct.pack(">I", len(profile)) + profile[4:]
    decoded = decode(with_chunk(chunk(b"iCCP", b"p3\0\0" + zlib.compress(profile))))
    assert (decoded.tobytes() != NOISE.tobytes()) == (size <= 4 * MIB)


def test_a_wrong_checksum_of_a_critical_chunk_is_refused() -> None:
    file = bytearray(encode("PNG"))
    file[30] ^= 1  # in the checksum of the header
    with pytest.raises(InputError, match="damaged"):
        decode(bytes(file))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}], ids=str)
def test_a_jpeg_without_its_end_marker_loads(options: Any) -> None:
    file = encode("JPEG", **options)
    whole = decode(file).tobytes()
    assert decode(file[:-2]).tobytes() == whole
    assert decode(file[:-1]).tobytes() == whole
    assert decode(file + b"a video" * 1000).tobytes() == whole


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}], ids=str)
def test_a_jpeg_cut_anywhere_else_is_refused(options: Any) -> None:
    file = encode("JPEG", **options)
    start, whole = file.rindex(b"\xff\xda"), decode(file).tobytes()
    restarts = [at for at in range(start, len(file) - 2) if file[at] == 0xFF and 0xD0 <= file[at + 1] <= 0xD7]
    for at in [*range(len(file) - 3, start + 12, -37), *restarts]:
        # The last byte may hold nothing but padding.
        with suppress(InputError):
            assert decode(file[:at]).tobytes() == whole, f"cut at {at} of {len(file)}"
            assert at > len(file) - 6


def test_a_jpeg_is_what_it_was_without_its_metadata() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a camera"
    file = encode("JPEG", exif=exif, comment=b"a" * 60_000, xmp=b"b" * 60_000)
    assert len(stripping.strip(file).data) < len(file) - 100_000
    assert decode(file).tobytes() == decode(encode("JPEG")).tobytes()


def test_the_parts_of_a_profile_in_a_jpeg_are_put_in_order() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    parts = [segment(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 3]) + profile[i * 200 : (i + 1) * 200]) for i in range(3)]
    assert stripping.strip(with_segment(b"".join(reversed(parts)))).profile == profile[:600]


def bmp_rle() -> bytes:
    """Return a compressed BMP of 24 megapixels that Pillow would decode in Python, a pixel at a time."""
    pixels = b"\1\0" * 8 * MIB
    head = struct.pack("<IiiHHIIiiII", 40, 5000, 5000, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(pixels), 0, 0, 54 + 1024) + head + bytes(1024) + pixels


def scans(count: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    file = encode("JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    return file[:-2] + file[last:-2] * count + b"\xff\xd9"


GIF = b"GIF89a" + struct.pack("<HHBBB", 96, 64, 0, 0, 0)
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a PNG of empty chunks": lambda: with_chunk(chunk(b"aaAa", b"") * 700_000),
    "a PNG of empty pixels": lambda: with_chunk(chunk(b"IDAT", b"") * 700_000),
    "a JPEG of empty segments": lambda: with_segment(segment(0xFE, b"") * 2_000_000),
    "a JPEG of small EXIF segments": lambda: with_segment(segment(0xE1, b"Exif\0\0" + b"a" * 80) * 100_000),
    "a JPEG of fill bytes": lambda: with_segment(b"\xff" * 8 * MIB),
    "a JPEG without segments": lambda: encode("JPEG")[:2] + b"\xff\0" * 4 * MIB,
    "a JPEG of restart markers": lambda: encode("JPEG")[:-2] + b"\xff\xd0" * 4 * MIB,
    "a JPEG of scans": lambda: scans(200),
    "a GIF of small blocks": lambda: GIF + b"!\xfe" + b"\1a" * 4 * MIB,
    "a GIF of extensions": lambda: GIF + b"!\xfe\0" * 3 * MIB,
    "a GIF of nothing": lambda: GIF + b"a" * 8 * MIB,
    "a compressed BMP": bmp_rle,
    "an AVIF of EXIF items": lambda: encode("AVIF")[:40] + b"infe\2" * 2 * MIB,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_answered_soon(name: str) -> None:
    text = base64.b64encode(HOSTILE[name]()).decode()
    began = time.process_time()
    with suppress(InputError):
        decode_image(text, field="image_b64")
    seconds = time.process_time() - began
    print(f"{name}: {len(text) / MIB:.0f} MiB in {seconds:.2f} s")
    assert seconds < 2  # quadratic time takes minutes


def test_more_than_100_scans_are_refused() -> None:
    decode(scans(50))
    with pytest.raises(InputError, match="more than 100 scans"):
        decode(scans(100))


KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "HEIF", "progressive", "APNG")


@cache
def small(kind: str) -> bytes:
    if kind == "progressive":
        return encode("JPEG", progressive=True, icc_profile=DISPLAY_P3.profile(), comment=b"a")
    if kind == "APNG":
        return encode("PNG", save_all=True, append_images=[NOISE.rotate(180)], icc_profile=DISPLAY_P3.profile())
    return encode(kind)


@given(st.data())
def test_damaged_files_raise_nothing_but_input_errors(data: Any) -> None:
    file = bytearray(small(data.draw(st.sampled_from(KINDS))))
    # Most structure is at the start.
    places = st.integers(0, len(file) - 1) | st.integers(0, 400)
    for _ in range(data.draw(st.integers(0, 6))):
        file[data.draw(places)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del file[data.draw(places) :]
    with suppress(InputError):
        image = decode(bytes(file))
        assert np.asarray(image).shape[2] == 3
        assert image.info == {}


@given(st.sampled_from([b"\xff\xd8\xff", PNG, b"GIF89a", b"\0\0\0\x1cftyp", b"BM"]), st.binary(max_size=200))
def test_any_bytes_can_be_stripped(start: bytes, data: bytes) -> None:
    stripped = stripping.strip(start + data)
    assert len(stripped.data) <= len(start + data) + 2


def test_a_frame_that_is_larger_than_its_header_says_takes_no_memory() -> None:
    buffer = BytesIO()
    Image.new("RGB", (5000, 5000)).save(buffer, "AVIF", speed=10, subsampling="4:4:4")
    file = bytearray(buffer.getvalue())
    at = file.index(b"ispe") + 8
    file[at : at + 8] = struct.pack(">II", 64, 64)
    with pytest.raises(InputError, match="damaged"):
        decode(bytes(file))
