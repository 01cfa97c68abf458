"""Convert colours to sRGB with LittleCMS, as their file's colour profile (ICC) describes them."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

_DEVICE_CLASSES = {"mntr", "scnr", "prtr", "spac"}  # not links, abstract profiles and named colours
_NEAR_SRGB = 2  # levels of 255; the sRGB profiles of cameras, browsers and editors differ by one
_LEVELS = np.linspace(0, 255, 9).round().astype(np.uint8)
_SAMPLES = Image.fromarray(np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS), -1).reshape(27, 27, 3))


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image of mode L, LA, RGB, RGBA or CMYK to sRGB.

    The image is returned as it is if its profile is that of sRGB or cannot be used.
    """
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source.profile.device_class not in _DEVICE_CLASSES:
            return image
        return _convert(image, source, source.profile.xcolor_space.strip())
    except Exception:  # noqa: BLE001 - a broken profile makes LittleCMS and Pillow raise all kinds of errors
        return image


def _convert(image: Image.Image, source: ImageCms.ImageCmsProfile, space: str) -> Image.Image:
    if space == "GRAY" and image.mode in {"L", "LA"}:
        converted = _transform(source, "L").apply(image.getchannel("L"))
        if image.mode == "LA":
            converted.putalpha(image.getchannel("A"))
        return converted
    if space == "CMYK" and image.mode == "CMYK":
        return _transform(source, "CMYK").apply(image)
    if space == "RGB" and image.mode != "CMYK" and not _is_srgb(source):
        mode = "RGBA" if image.mode.endswith("A") else "RGB"
        return _transform(source, mode).apply(image if image.mode == mode else image.convert(mode))
    return image


def _is_srgb(source: ImageCms.ImageCmsProfile) -> bool:
    """Return whether the conversion changes none of some hundred colours, apart from rounding."""
    before, after = np.asarray(_SAMPLES, np.int16), np.asarray(_transform(source, "RGB").apply(_SAMPLES), np.int16)
    return bool(np.abs(after - before).max() <= _NEAR_SRGB)


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.ImageCmsTransform(source, srgb, mode, "RGBA" if mode == "RGBA" else "RGB")
