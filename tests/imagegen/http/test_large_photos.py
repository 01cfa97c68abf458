"""Large photos: memory in proportion to their pixels, and one decode at a time."""

import base64
import subprocess
import sys
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import Image

from imagegen.errors import InputError
from imagegen.http.base64_images import decode_image
from imagegen.http.images import decoding

WIDTH, HEIGHT = 2432, 1824
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("RGB", {"progressive": True, "subsampling": 0}),
    "PNG": ("RGBA", {"compress_level": 1}),
    "WEBP": ("RGBA", {"lossless": True, "method": 0, "quality": 0}),
    "AVIF": ("RGB", {"speed": 10, "subsampling": "4:4:4"}),
    "HEIF": ("RGB", {"quality": 50, "enc_params": {"preset": "ultrafast"}}),
}
MEASURE = """
import gc, re, sys
from pathlib import Path

from imagegen.http.base64_images import decode_image

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

for small, large in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    decode_image(Path(small).read_text(), field="image_b64")  # loads the decoder
    text = Path(large).read_text()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    image = decode_image(text, field="image_b64").image
    print(*image.size, peak() - before)
    del image
"""


def test_decoding_takes_at_most_16_bytes_a_pixel(tmp_path: Path) -> None:
    """Beside the file of an AVIF, which another process decodes."""
    pillow_heif.register_heif_opener()
    files = []
    for kind, (mode, options) in FORMATS.items():
        for size in ((2080, 64), (WIDTH, HEIGHT)):
            buffer = BytesIO()
            Image.new(mode, size, "orange").save(buffer, kind, **options)
            files.append(tmp_path / f"{kind}{size[0]}")
            files[-1].write_bytes(base64.b64encode(buffer.getvalue()))
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=True)
    results = dict(zip(FORMATS, (line.split() for line in done.stdout.splitlines()), strict=True))
    for kind, (width, height, growth) in results.items():
        print(f"{kind}: {int(growth) / (WIDTH * HEIGHT):.1f} bytes a pixel")
        assert (width, height) == ("2048", "1536")
        assert int(growth) <= 16 * WIDTH * HEIGHT
    assert int(results["PNG"][2]) > 4 * WIDTH * HEIGHT  # the pixels themselves


def test_one_image_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0
    load = decoding._load

    def counting(*arguments: Any) -> Image.Image:
        nonlocal running, most
        running += 1
        most = max(most, running)
        image = load(*arguments)
        running -= 1
        return image

    monkeypatch.setattr(decoding, "_load", counting)
    text = photo((2000, 2000))
    threads = [threading.Thread(target=decode_image, args=(text,), kwargs={"field": "image_b64"}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (running, most) == (0, 1)


def photo(size: tuple[int, int], **options: Any) -> str:
    buffer = BytesIO()
    Image.new("RGB", size, "orange").save(buffer, "JPEG", **options)
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_photo_of_64_megapixels_is_decoded_at_a_smaller_scale() -> None:
    sent = decode_image(photo((9248, 6936)), field="image_b64")
    assert (sent.image.size, sent.resized_from) == ((2048, 1536), (9248, 6936))


def test_the_scans_of_a_large_photo_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_MAX_SCANNED_PIXELS", 20 * 1000 * 1000)
    file = base64.b64decode(photo((1000, 1000), progressive=True))
    last = file[file.rindex(b"\xff\xda") : -2]
    for more, accepted in ((10, True), (11, False)):
        text = base64.b64encode(file[:-2] + last * more + b"\xff\xd9").decode()
        if accepted:
            decode_image(text, field="image_b64")
        else:
            with pytest.raises(InputError, match="a large JPEG of 21 scans"):
                decode_image(text, field="image_b64")


def test_after_a_damaged_photo_the_next_one_is_decoded() -> None:
    text = photo((3000, 2000))
    with pytest.raises(InputError, match="damaged"):
        decode_image(text[: len(text) // 2 // 4 * 4], field="image_b64")
    assert decode_image(text, field="image_b64").image.size == (2048, 1365)
