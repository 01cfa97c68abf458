"""Decode AVIF files in a process of their own, whose memory is limited.

A file of a kilobyte can hold a frame of 268 megapixels that its header announces as small. Pillow decodes such a frame
and scales it down; it has no setting that limits it.
"""

import contextlib
import resource
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from PIL import AvifImagePlugin, Image

_BYTES_PER_PIXEL = 16
_SPARE_MEMORY = 64 * 1024 * 1024  # bytes, for the decoder's tables
_TIMEOUT = 60  # seconds; 24 megapixels take about three


def decode_avif(data: bytes, mode: str, size: tuple[int, int]) -> Image.Image:
    """Decode the first frame of a file with this mode and size in its header.

    Raises ValueError or subprocess.SubprocessError if it is damaged or takes more memory than its size accounts for.
    """
    memory = _BYTES_PER_PIXEL * size[0] * size[1] + _SPARE_MEMORY
    command = [sys.executable, "-P", __file__, str(memory)]
    done = subprocess.run(  # noqa: S603 - the command is this file
        command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_TIMEOUT, check=True
    )
    return Image.frombytes(mode, size, done.stdout)


def _main() -> None:
    """Read a file from the standard input, and write its pixels to the standard output."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each thread reserves memory
    with Image.open(BytesIO(sys.stdin.buffer.read()), formats=["AVIF"]) as image:
        with contextlib.suppress(OSError, ValueError):  # only Linux counts it
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
        sys.stdout.buffer.write(image.tobytes())


if __name__ == "__main__":
    _main()
