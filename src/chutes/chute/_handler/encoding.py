"""JSON encoding of the values that a handler returns or yields."""

from typing import Any

from fastapi.encoders import jsonable_encoder
from pydantic_core import to_json as _to_json

BYTES_TYPES = (bytes, bytearray, memoryview)
"""The types that a response sends unencoded."""


def to_json(value: Any) -> bytes:
    """Encode a value as JSON: a model, dataclass, date, array, or another type that FastAPI supports.

    NaN and infinities become null.
    """
    return _to_json(value, by_alias=True, inf_nan_mode="null", fallback=_fallback)


def _fallback(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numbers and arrays of NumPy and PyTorch
        return value.tolist()
    return jsonable_encoder(value)
