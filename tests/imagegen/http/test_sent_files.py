"""The files that people send: every format with every kind of colour, and the pixels that the model gets.

The references are computed from the formulas of the colour spaces, without LittleCMS.
"""

import base64
import struct
import sys
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from imagegen.errors import InputError
from imagegen.http.base64_images import decode_image, decode_mask
from imagegen.http.schemas import Img2ImgInput, InpaintInput
from imagegen.profile import FLUX_DEV
from imagegen.request import Request
from tests.imagegen.http import profiles
from tests.imagegen.http.profiles import ADOBE_RGB, DISPLAY_P3, PROPHOTO, SRGB

pillow_heif.register_heif_opener()  # for `Image.save`; the service does not need it

ROWS, COLUMNS, PATCH = 6, 8, 16  # of the test chart; a patch of 16 pixels survives compression
GREY_GAMMA = 461 / 256
MOST = 1.6  # levels of 255 between the decoded colours and the formulas, for any file


def colours(channels: int, levels: int = 256) -> NDArray[Any]:
    """Return random colours for the patches, with the corners of the cube."""
    values = np.random.default_rng(channels).integers(0, levels, (ROWS * COLUMNS, channels))
    corners = min(8, 2**channels)
    values[:corners] = (np.arange(corners)[:, None] >> np.arange(channels) & 1) * (levels - 1)
    return values


def chart(values: NDArray[Any], patch: int = PATCH) -> NDArray[Any]:
    """Return the pixels of a chart with one patch for each colour."""
    grid = values.reshape(ROWS, COLUMNS, -1)
    return grid.repeat(patch, axis=0).repeat(patch, axis=1)


def picture(values: NDArray[Any], patch: int = PATCH) -> Image.Image:
    pixels = chart(values.astype(np.uint8), patch)
    return (
        Image.fromarray(pixels[..., 0])
        if pixels.shape[2] == 1
        else Image.fromarray(pixels, {3: "RGB", 4: "CMYK"}[pixels.shape[2]])
    )


BEST: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIF": {"quality": -1, "chroma": 444},
    "GIF": {},
    "BMP": {},
}


def encode(image: Image.Image, kind: str, profile: bytes | None = None, exif: Image.Exif | None = None) -> bytes:
    buffer = BytesIO()
    extra = {name: value for name, value in (("icc_profile", profile), ("exif", exif and exif.tobytes())) if value}
    image.save(buffer, kind, **BEST[kind], **extra)
    return buffer.getvalue()


def png(header: bytes, rows: NDArray[Any], **chunks: bytes) -> bytes:
    """Return a PNG with additional chunks before its pixels, such as one of 16 bits a channel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">II", rows.shape[1], rows.shape[0])
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [chunk(b"IHDR", size + header)] + [chunk(name.encode(), body) for name, body in chunks.items()]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")])


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


MASK = encode(Image.new("L", (16, 16), 255), "PNG")


class Row(NamedTuple):
    """A file, the conversion of its colours (0 to 1) to sRGB, and those colours if Pillow cannot read them exactly."""

    name: str
    file: Callable[[], bytes]
    to_srgb: Callable[[NDArray[Any]], NDArray[Any]]
    stored: NDArray[Any] | None = None


def unchanged(values: NDArray[Any]) -> NDArray[Any]:
    return values


def rgb_rows() -> list[Row]:
    image = picture(colours(3))
    spaces = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB, "ProPhoto": PROPHOTO, "sRGB": SRGB}
    rows = []
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "HEIF"):
        rows.append(Row(f"{kind}, untagged", partial(encode, image, kind), unchanged))
        for name, space in spaces.items():
            file = partial(encode, image, kind, space.profile())
            rows.append(Row(f"{kind}, {name}", file, unchanged if space is SRGB else space.to_srgb))
    return rows


def other_rows() -> list[Row]:
    grey, few, wide = colours(1), colours(3) // 85 * 85, colours(3, 65536)
    p3, of_grey = DISPLAY_P3.profile(), profiles.grey_profile(GREY_GAMMA)
    grey_to_srgb = partial(profiles.grey_to_srgb, gamma=GREY_GAMMA)
    of_16_bits = partial(png, struct.pack(">BBBBB", 16, 2, 0, 0, 0), chart(wide.astype(">u2")))
    grey_of_16_bits = partial(png, struct.pack(">BBBBB", 16, 0, 0, 0, 0), chart((grey * 257).astype(">u2")))
    opaque = Image.fromarray(chart(np.append(few, np.full((len(few), 1), 255), 1).astype(np.uint8)))
    chunk = b"p3\0\0" + zlib.compress(p3)
    return [
        Row("JPEG, CMYK", partial(encode, picture(colours(4)), "JPEG", profiles.cmyk_profile()), profiles.cmyk_to_srgb),
        Row("JPEG, grey", partial(encode, picture(grey), "JPEG", of_grey), grey_to_srgb),
        Row("PNG, grey", partial(encode, picture(grey), "PNG", of_grey), grey_to_srgb),
        Row("PNG, grey with a profile of RGB", partial(encode, picture(grey), "PNG", p3), unchanged),
        Row(
            "PNG, grey and alpha",
            partial(encode, picture(grey).convert("LA"), "PNG", of_grey),
            grey_to_srgb,
            grey / 255,
        ),
        Row("PNG, RGB and alpha, Display P3", partial(encode, opaque, "PNG", p3), DISPLAY_P3.to_srgb, few / 255),
        Row(
            "PNG, palette, Display P3",
            partial(encode, picture(few).quantize(64), "PNG", p3),
            DISPLAY_P3.to_srgb,
            few / 255,
        ),
        Row("PNG, 16 bits, untagged", of_16_bits, unchanged, wide / 65535),
        Row("PNG, 16 bits, Display P3", partial(of_16_bits, iCCP=chunk), DISPLAY_P3.to_srgb, wide / 65535),
        Row("PNG, 16 bits, grey", grey_of_16_bits, unchanged, grey / 255),
        Row("PNG, RGB with a profile of grey", partial(encode, picture(few), "PNG", of_grey), unchanged),
        Row("PNG, broken profile", partial(encode, picture(few), "PNG", p3[:300]), unchanged),
        Row("GIF", partial(encode, picture(few), "GIF"), unchanged, few / 255),
        Row("BMP", partial(encode, picture(few), "BMP"), unchanged),
    ]


def photo_rows() -> list[Row]:
    """Files beyond 2048 pixels a side, which are scaled down."""
    image = picture(colours(3) // 85 * 85, 260)
    file = partial(encode, image, profile=DISPLAY_P3.profile())
    return [
        Row(f"{kind} of 2080x1560, Display P3", partial(file, kind=kind), DISPLAY_P3.to_srgb)
        for kind in ("JPEG", "PNG")
    ]


def patches(image: Image.Image) -> NDArray[Any]:
    """Return the colours in the centres of the patches."""
    pixels = np.asarray(image, float)
    down = ((np.arange(ROWS) + 0.5) * image.height / ROWS).astype(int)
    across = ((np.arange(COLUMNS) + 0.5) * image.width / COLUMNS).astype(int)
    return pixels[down][:, across].reshape(ROWS * COLUMNS, -1)


def as_sent(route: str, file: bytes, mask: bytes = MASK) -> Request:
    if route == "img2img":
        return Img2ImgInput(prompt="a cat", image_b64=b64(file)).to_request(FLUX_DEV)
    return InpaintInput(prompt="a cat", image_b64=b64(file), mask_b64=b64(mask)).to_request(FLUX_DEV)


def stored(file: bytes) -> NDArray[Any]:
    """Return the colours in a file as they are, 0 to 1."""
    with Image.open(BytesIO(file)) as image:
        return patches(image) / 255


@pytest.mark.parametrize("row", [*rgb_rows(), *other_rows(), *photo_rows()], ids=lambda row: row.name)
def test_colours_are_those_of_the_formulas(row: Row) -> None:
    file = row.file()
    sent = stored(file) if row.stored is None else row.stored
    expected = row.to_srgb(sent) * 255
    errors = {}
    for route in ("img2img", "inpaint"):
        image = as_sent(route, file).image
        assert image is not None
        assert (image.mode, image.info) == ("RGB", {})
        errors[route] = float(np.abs(patches(image) - expected).max())
    ignored = float(np.abs(sent * 255 - expected).max()) if sent.shape == expected.shape else float("nan")
    print(f"{row.name}: largest errors {errors}; {ignored:.0f} without the profile")
    exact = row.to_srgb is unchanged and "16 bits" not in row.name and "of 2080" not in row.name
    assert max(errors.values()) <= (0 if exact else MOST)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright(kind: str, orientation: int) -> None:
    # Undo the eight ways in which a camera may store the same upright picture.
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    upright = picture(colours(3) // 85 * 85)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    saved = upright.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else upright
    image = as_sent("img2img", encode(saved, kind, DISPLAY_P3.profile(), exif)).image
    assert image is not None
    error = np.abs(patches(image) - DISPLAY_P3.to_srgb(patches(upright) / 255) * 255).max()
    print(f"{kind}, orientation {orientation}: largest error {error:.1f}")
    assert image.size == upright.size
    assert error <= (MOST if kind in {"PNG", "WEBP"} else 6)  # the others convert colours to YCbCr


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (2048, 1536)),
        ({"width": 800}, (800, 600)),
        ({"height": 600}, (800, 600)),
        ({"width": 512, "height": 512}, (512, 512)),
        ({"width": 2048, "height": 256}, (2048, 256)),
    ],
    ids=str,
)
def test_a_large_photo_is_scaled_to_the_size_asked_for(orientation: int, fields: Any, size: tuple[int, int]) -> None:
    upright = picture(colours(3) // 85 * 85, 5).resize((2160, 1620), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    saved = upright.rotate(90, expand=True) if orientation == 6 else upright
    sent = decode_image(b64(encode(saved, "JPEG", None, exif)), field="image_b64", **fields)
    assert (sent.image.size, sent.resized_from) == (size, (2160, 1620))
    expected = np.asarray(ImageOps.fit(upright, size), float)
    assert np.abs(np.asarray(sent.image, float) - expected).mean() < 2  # a shift of one pixel is more


def test_a_mask_is_scaled_as_its_photo() -> None:
    photo = Image.new("L", (3000, 2000))
    photo.paste(255, (0, 0, 1500, 2000))
    file = encode(photo, "PNG")
    request = as_sent("inpaint", file, file)
    assert request.image is not None
    assert request.mask is not None
    assert request.image.size == request.mask.size == (2048, 1365)
    assert request.resized_from == (3000, 2000)
    assert set(np.unique(np.asarray(request.mask)[:, 1026:])) == {0}
    assert set(np.unique(np.asarray(request.mask)[:, :1022])) == {255}
    colourful = decode_mask(b64(encode(photo, "PNG", DISPLAY_P3.profile())), size=(300, 200), field="mask_b64")
    assert colourful.getextrema() == (0, 255)


def test_decoding_hands_over_pixels_only() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "a secret"
    file = BytesIO()
    picture(colours(3)).save(file, "JPEG", comment=b"a secret", exif=exif, xmp=b"a secret", icc_profile=SRGB.profile())
    image = as_sent("img2img", file.getvalue()).image
    assert image is not None
    assert type(image) is Image.Image
    assert image.info == {}
    for kind in ("JPEG", "PNG", "WEBP"):
        again = BytesIO()
        image.save(again, kind)
        assert b"secret" not in again.getvalue()
        with Image.open(again) as opened:
            assert not {"comment", "exif", "xmp", "icc_profile"} & opened.info.keys()


def other_formats() -> dict[str, bytes]:
    image = Image.new("RGB", (64, 64))
    files = {}
    for kind in ("TIFF", "ICO", "JPEG2000", "TGA", "PPM", "PDF"):
        buffer = BytesIO()
        image.save(buffer, kind)
        files[kind] = buffer.getvalue()
    return {**files, "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "MP4": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2"}


@pytest.mark.parametrize("kind", other_formats())
@pytest.mark.parametrize("route", ["img2img", "inpaint"])
def test_other_formats_are_refused(route: str, kind: str) -> None:
    with pytest.raises(InputError, match="image_b64 is not a JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC image"):
        as_sent(route, other_formats()[kind])


def test_heic_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    file = encode(picture(colours(3)), "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match="a HEIC image, which this server cannot read"):
        as_sent("img2img", file)


def test_a_url_is_told() -> None:
    for url in ("https://example.com/photo.jpg", " HTTP://example.com/a.png"):
        with pytest.raises(InputError, match="image_b64 is a URL"):
            Img2ImgInput(prompt="a cat", image_b64=url).to_request(FLUX_DEV)


@pytest.mark.parametrize("size", [(3000, 15), (15, 3000), (4096, 20)])
def test_a_picture_that_is_too_narrow_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"at least 16x16|too long and narrow"):
        as_sent("img2img", encode(Image.new("L", size), "PNG"))
