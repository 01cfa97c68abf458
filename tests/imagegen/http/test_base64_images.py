"""Images that clients send: all supported forms, and the ones that are refused."""

import base64
import struct
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from imagegen.errors import ImageTooLarge, InputError
from imagegen.http import base64_images
from imagegen.http.responses import error_response

RED, BLUE = (220, 30, 30), (30, 30, 220)


def scene(mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def b64(image: Image.Image, kind: str = "PNG", **options: object) -> str:
    buffer = BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(buffer)
    else:
        image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def decode(text: str) -> Image.Image:
    return base64_images.decode_image(text, field="image_b64").image


def near(pixel: object, colour: tuple[int, ...], tolerance: int = 40) -> bool:
    return bool(np.abs(np.array(pixel, int) - np.array(colour)).max() <= tolerance)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: "data:image/png;base64," + text,
        lambda text: "DATA:image/png;charset=utf-8;Base64, " + text,
        lambda text: "\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\r\n",
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
    ],
    ids=["plain", "data-url", "data-url-odd", "lines", "no-padding", "url-safe"],
)
def test_base64_in_every_common_form(wrap: Any) -> None:
    noise = Image.effect_noise((40, 30), 90).convert("RGB")
    assert decode(wrap(b64(noise))).tobytes() == noise.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"])
def test_formats(kind: str) -> None:
    image = decode(b64(scene(), kind))
    assert (image.mode, image.size) == ("RGB", (48, 32))
    assert near(image.getpixel((5, 16)), RED)
    assert near(image.getpixel((42, 16)), BLUE)


def test_a_transparent_16_bit_grey_becomes_white() -> None:
    source = Image.fromarray(np.full((32, 48), 0, np.uint16))
    buffer = BytesIO()
    source.save(buffer, "PNG", transparency=0)
    assert decode(base64.b64encode(buffer.getvalue()).decode()).getpixel((5, 16)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_modes_of_png(mode: str) -> None:
    if mode == "I;16":
        source = Image.fromarray(np.full((32, 48), 200 << 8, np.uint16))
        expected = (200, 200, 200)
    else:
        source = scene(mode)
        expected = scene(mode).convert("RGB").getpixel((5, 16))
    image = decode(b64(source))
    assert image.mode == "RGB"
    assert near(image.getpixel((5, 16)), expected, 2)


def test_cmyk_jpeg() -> None:
    assert near(decode(b64(scene("CMYK"), "JPEG")).getpixel((5, 16)), RED)


def test_transparent_pixels_become_white() -> None:
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert decode(b64(clear)).getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert decode(b64(palette, transparency=0)).getpixel((3, 3)) == (255, 255, 255)
    assert decode(b64(Image.new("LA", (32, 32), (0, 0)))).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_only_the_first_frame_of_an_animation_counts(kind: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE)]
    text = b64(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(decode(text).getpixel((3, 3)), RED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: Any) -> None:
    # Undo the eight ways in which a camera may store the same upright picture.
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = scene()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = decode(b64(stored, "PNG", exif=exif))
    assert image.tobytes() == scene().tobytes()


def test_a_mask_is_greyscale_resized_and_black_where_transparent() -> None:
    strokes = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    strokes.paste((255, 255, 255, 255), (0, 0, 8, 16))
    mask = base64_images.decode_mask(b64(strokes), size=(64, 48), field="mask_b64")
    assert (mask.mode, mask.size) == ("L", (64, 48))
    assert mask.getpixel((5, 20)) == 255
    assert mask.getpixel((60, 20)) == 0


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'


def truncated(kind: str) -> str:
    data = base64.b64decode(b64(Image.effect_noise((64, 64), 90).convert("RGB"), kind))
    return base64.b64encode(data[: len(data) // 2]).decode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("%%%", "base64"),
        ("abcde", "base64"),
        ("äöü", "base64"),
        ("\0\0\0\0", "base64"),
        ("data:image/svg+xml,<svg/>", "base64"),
        ("data:image/png;base64,", "empty"),
        ("   ", "empty"),
        (base64.b64encode(b"just text, nothing else").decode(), "not a JPEG"),
        (base64.b64encode(SVG).decode(), "not a JPEG"),
        (b64(scene(), "TIFF"), "not a JPEG"),
        (truncated("PNG"), "damaged"),
        (truncated("JPEG"), "damaged"),
        (b64(scene(size=(15, 64))), "at least 16x16"),
    ],
    ids=lambda value: value[:20].replace("\0", "NUL") if isinstance(value, str) else None,
)
def test_what_is_not_an_image_is_refused_with_its_field(text: Any, why: str) -> None:
    with pytest.raises(InputError, match=why) as error:
        decode(text)
    assert (error.value.field, error_response(error.value).status_code) == ("image_b64", 422)


def test_a_truncated_webp_is_refused() -> None:
    with pytest.raises(InputError):
        decode(truncated("WEBP"))


@pytest.mark.parametrize(("kind", "size"), [("PNG", (6000, 4300)), ("GIF", (1000, 26_000)), ("JPEG", (8200, 8200))])
def test_too_many_pixels_are_refused(kind: str, size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="at most 24 megapixels are accepted, 64 of a JPEG") as error:
        decode(b64(Image.new("L", size), kind))
    assert (error.value.field, error_response(error.value).status_code) == ("image_b64", 413)


def test_2048_a_side_is_accepted() -> None:
    assert decode(b64(Image.new("L", (2048, 2048)))).size == (2048, 2048)


def png(width: int, height: int, data: bytes, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMBS = """
import resource, sys
from imagegen.http import base64_images
from imagegen.http.responses import error_response
from imagegen.errors import InputError

base64_images.decode_image(sys.stdin.readline(), field="image_b64")  # warm up the decoders
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for line in sys.stdin:
    try:
        base64_images.decode_image(line, field="image_b64")
    except InputError as error:
        print(error_response(error).status_code, error)
    else:
        print("decoded")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def compressed_zeros(mebibytes: int) -> bytes:
    """Return what zlib makes of as many zeros. It compresses one block, which is repeated."""
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    checksum = (mebibytes << 20) % 65521 << 16 | 1  # Adler-32 of zeros
    return b"\x78\xda" + block * mebibytes + b"\x03\0" + struct.pack(">I", checksum)


def test_decompression_bombs_are_refused_by_their_header_without_memory() -> None:
    """Small files that claim or unpack to gigabytes do not raise the peak memory of the process."""
    zeros = compressed_zeros(48)
    text = compressed_zeros(400)
    ztxt = b"zTXt" + b"Comment\0\0" + text
    chunk = struct.pack(">I", len(ztxt) - 4) + ztxt + struct.pack(">I", zlib.crc32(ztxt))
    webp = bytearray(base64.b64decode(b64(scene(), "WEBP", lossless=True)))
    webp[21:25] = struct.pack("<I", 16383 | 16383 << 14)  # width and height, less one, of a lossless WebP
    jpeg = bytearray(base64.b64decode(b64(scene(), "JPEG")))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65000, 65000)
    bombs = [
        png(13_000, 13_000, zeros),
        png(60_000, 60_000, zeros),
        png(2**31 - 1, 2**31 - 1, zeros),
        png(64, 64, zlib.compress(bytes(64 * 193)), chunk),
        png(64, 64, compressed_zeros(500)),
        bytes(webp),
        bytes(jpeg),
    ]
    lines = [b64(scene()), *(base64.b64encode(bomb).decode() for bomb in bombs)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BOMBS],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    *answers, peak = done.stdout.splitlines()
    print(f"files of {sum(map(len, bombs)) >> 10} KiB in all: {answers}; peak memory +{peak} MiB")
    assert [answer[:3] for answer in answers[:3]] == ["413"] * 3
    assert [answer[:3] for answer in answers[5:]] == ["413"] * 2
    assert int(peak) < 40


@pytest.mark.parametrize("text", ["aaa " * 4_000_000, "a " * 8_000_000, " " * 16_000_000, "\u00a0" * 8_000_000])
def test_base64_full_of_white_space_takes_proportional_memory(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            base64_images.decode_image(text, field="image_b64")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(text)


@given(st.data())
def test_damaged_files_raise_nothing_but_input_errors(data: Any) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    file = bytearray(base64.b64decode(b64(scene(), kind)))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    with suppress(InputError):
        decode(base64.b64encode(bytes(file)).decode())
