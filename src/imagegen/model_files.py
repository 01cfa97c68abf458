"""Check the files of a model folder by their headers, and count the parameters in weight files.

No tensor is read, so that checking a model of any size takes milliseconds.
"""

import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_MAX_PARSED_JSON = 4_000_000  # bytes; a tokenizer.json can have 30 MB
_MAX_PICKLE = 64_000_000  # bytes of a checkpoint's data.pkl, which describes the tensors
_BITS = re.compile(r"(?:BF|F|I|U|C)(\d+)")  # of safetensors' data types, such as BF16 and F8_E4M3
_HTML = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|error)", re.IGNORECASE)


class BadFile(Exception):
    """A file of a model folder cannot be used.

    - `problem`: completes a sentence that begins with the file's name.
    - `remedy`: what to do; None means that an intact copy of the file helps.
    - `missing`: whether the file, or all of its contents, are absent.
    """

    def __init__(self, file: Path, problem: str, *, remedy: str | None = None, missing: bool = False) -> None:
        super().__init__(f"{file} {problem}")
        self.file = file
        self.problem = problem
        self.remedy = remedy
        self.missing = missing


class LfsPointer(BadFile):
    """A file is the pointer that Git stores in place of a large file."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, "is a Git LFS pointer, not the file itself", missing=True)


def check_head(file: Path) -> int:
    """Return the size of a file in bytes. Raise BadFile if it is absent, empty, a Git LFS pointer or a web page."""
    try:
        with file.open("rb") as opened:
            head = opened.read(256)
        size = file.stat().st_size
    except FileNotFoundError:
        raise BadFile(file, "is missing", missing=True) from None
    except OSError as error:
        raise BadFile(file, f"cannot be read: {error.strerror}", remedy="Check the file's permissions.") from None
    if not size:
        raise BadFile(file, "is empty", missing=True)
    if head.startswith(b"version https://git-lfs"):
        raise LfsPointer(file)
    if _HTML.match(head):
        raise BadFile(file, "is a web page (HTML or XML) that was saved under this name")
    return size


def check_json(file: Path) -> None:
    """Raise BadFile if a file is no JSON. Of a large file, only both ends are checked."""
    if check_head(file) <= _MAX_PARSED_JSON:
        _parse(file, file.read_bytes())
        return
    with file.open("rb") as opened:
        head = opened.read(64).lstrip()
        opened.seek(-64, 2)
        tail = opened.read().rstrip()
    if (head[:1], tail[-1:]) not in {(b"{", b"}"), (b"[", b"]")}:
        raise BadFile(file, "is not JSON, or is truncated")


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raise BadFile if the file holds something else."""
    if check_head(file) > _MAX_HEADER:
        raise BadFile(file, "is too large for a JSON file")
    value = _parse(file, file.read_bytes())
    if not isinstance(value, dict):
        raise BadFile(file, "holds no JSON object")
    return value


def _parse(file: Path, text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        detail = f": {error}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadFile(file, f"is not JSON{detail}") from None


def count_parameters(file: Path, *, quantized: bool = False) -> int:
    """Count the parameters in a weight file. Raise BadFile if the file is damaged.

    Integers, and all values of a quantised component, count as one parameter for each two bytes. So two bytes a
    parameter give the memory of every component in bf16, quantised ones included.
    """
    size = check_head(file)
    if file.suffix == ".safetensors":
        return _count_safetensors(file, size, quantized)
    return _count_pickled(file, quantized)


def _count_safetensors(file: Path, size: int, quantized: bool) -> int:
    header, start = _read_header(file, size)
    count = end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, elements, last, stored = _read_tensor(tensor)
        except (KeyError, TypeError, ValueError):
            raise BadFile(file, "has a damaged header") from None
        end = max(end, last)
        count += stored // 2 if quantized or not dtype.startswith(("F", "BF")) else elements
    if size < start + end:
        raise BadFile(file, f"is truncated: it has {size:,} of {start + end:,} bytes", missing=True)
    if size > start + end:
        raise BadFile(file, f"is damaged: it has {size:,} bytes, and its header describes {start + end:,}")
    return count


def _read_header(file: Path, size: int) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and the offset of the first tensor."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _MAX_HEADER:
            raise BadFile(file, "is not a safetensors file")
        if length > size - 8:
            problem = f"is truncated: it has {size:,} bytes, and its header alone {8 + length:,}"
            raise BadFile(file, problem, missing=True)
        text = opened.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise BadFile(file, "is not a safetensors file, or has a damaged header")
    return header, 8 + length


def _read_tensor(entry: Any) -> tuple[str, int, int, int]:
    """Return a tensor's data type, its number of elements, the offset of its end, and its bytes.

    Raises KeyError, TypeError or ValueError if the header's entry cannot be that of a tensor.
    """
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, first, last]
    if len(numbers) > 64 or not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise ValueError(numbers)
    elements, stored = math.prod(shape), last - first
    bits = _BITS.match(dtype)
    if stored < 0 or (bits and elements * int(bits[1]) != 8 * stored):
        raise ValueError(stored)
    return dtype, elements, last, stored


def _count_pickled(file: Path, quantized: bool) -> int:
    """Count the parameters in a file of `torch.save`: a zip archive of a pickle and the bytes of each tensor."""
    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic != b"PK\x03\x04":
        old = "is in the format of PyTorch before 1.6" if magic[:1] == b"\x80" else "is not a PyTorch checkpoint"
        raise BadFile(file, old, remedy="Convert the weights to safetensors.")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            name = next(entry.filename for entry in entries if entry.filename.endswith("data.pkl"))
            with archive.open(name) as pickled:
                storages = pickled.read(_MAX_PICKLE)
    except Exception as error:  # zipfile raises a dozen classes for damaged archives; StopIteration: no data.pkl
        raise BadFile(file, "is truncated or damaged", missing=True) from error
    stored = sum(entry.file_size for entry in entries if "/data/" in entry.filename)
    is_fp32 = b"FloatStorage" in storages and b"HalfStorage" not in storages and b"BFloat16Storage" not in storages
    return stored // (4 if is_fp32 and not quantized else 2)
