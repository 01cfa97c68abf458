"""Encode a job's result as JSON, in small steps and up to a limit.

`jsonable_encoder` and `json.dumps` copy the whole value before its size is known, and the C encoder holds the
interpreter lock until it is done. A result may be large, so this encoder walks it lazily and stops at the limit. Only
a pydantic model is dumped in one step, by pydantic.
"""

import dataclasses
import math
from collections import deque
from enum import Enum
from json.encoder import encode_basestring
from pathlib import PurePath
from types import GeneratorType, NoneType
from typing import TYPE_CHECKING, Any

from fastapi.encoders import ENCODERS_BY_TYPE, jsonable_encoder
from pydantic import BaseModel

from chutes.exception import ChutesError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_DEPTH = 100  # levels; a result that contains itself would have no end
_SCALARS = (str, int, float, NoneType)
_LISTS = (list, tuple, set, frozenset, deque, GeneratorType)
_JSON_TYPES = frozenset({str, int, float, bool, NoneType, dict, list, tuple})
_FASTAPI_TYPES: tuple[type[Any], ...] = (*ENCODERS_BY_TYPE, PurePath)
_END: Any = object()


class InvalidResult(ChutesError):
    """A job's result is too large, nested too deeply, or not JSON."""


def encode(result: Any, limit: int) -> bytes:
    """Return a job's result as JSON text of at most `limit` bytes.

    Types are converted as in FastAPI. NaN and infinities become strings, and lone surrogates become question marks.
    Raise InvalidResult if the result is too large, nested too deeply, or not JSON.
    """
    try:
        return _encode(result, limit)
    except InvalidResult:
        raise
    except Exception as error:
        raise InvalidResult("The job's result cannot be encoded as JSON. The log has the reason.") from error


def _encode(result: Any, limit: int) -> bytes:
    text = bytearray()
    # For each open container: an iterator over the rest of it, and its closing bracket. Python limits recursion.
    containers: list[tuple[Iterator[Any], bytes]] = [(iter((result,)), b"")]
    while containers:
        items, bracket = containers[-1]
        if (item := next(items, _END)) is _END:
            text += bracket
            containers.pop()
        else:
            if text and text[-1] not in b"[{":
                text += b","
            if bracket == b"}":
                key, item = item
                text += _key(key, limit) + b":"
            item = _convert_outer(item, limit)
            if isinstance(item, dict):
                text += b"{"
                containers.append((iter(item.items()), b"}"))
            elif isinstance(item, _LISTS):
                text += b"["
                containers.append((iter(item), b"]"))
            else:
                text += _scalar(item, limit)
        if len(text) > limit:
            raise _too_large(limit)
        if len(containers) > _MAX_DEPTH + 1:  # the first container is the result's own
            raise InvalidResult(f"The job's result is nested deeper than {_MAX_DEPTH} levels, or contains itself.")
    return bytes(text)


def _convert_outer(value: Any, limit: int) -> Any:
    """Return the value as a JSON type, without converting the values inside it."""
    if type(value) in _JSON_TYPES:
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return _convert_outer(value.value, limit)
    return value if isinstance(value, (*_SCALARS, dict, *_LISTS)) else _from_object(value, limit)


def _from_object(value: Any, limit: int) -> Any:
    if isinstance(value, bytes) and len(value) > limit:
        raise _too_large(limit)
    if isinstance(value, _FASTAPI_TYPES):
        return jsonable_encoder(value)
    try:
        return dict(value)
    except Exception:  # noqa: BLE001 - as in FastAPI, any object with attributes will do
        return vars(value)


def _key(key: Any, limit: int) -> bytes:
    key = _convert_outer(key, limit)
    if not isinstance(key, _SCALARS):
        raise TypeError(f"A key of type {type(key).__name__} cannot be encoded as JSON.")
    return _string(key if isinstance(key, str) else _scalar(key, limit).decode().strip('"'), limit)


def _scalar(value: Any, limit: int) -> bytes:
    if value is None:
        return b"null"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return int.__repr__(value).encode()
    if isinstance(value, float):
        return float.__repr__(value).encode() if math.isfinite(value) else b'"%s"' % float.__repr__(value).encode()
    if isinstance(value, str):
        return _string(value, limit)
    raise TypeError(f"A value of type {type(value).__name__} cannot be encoded as JSON.")


def _string(value: str, limit: int) -> bytes:
    if len(value) > limit:
        raise _too_large(limit)
    return encode_basestring(value).encode("utf-8", "replace")


def _too_large(limit: int) -> InvalidResult:
    return InvalidResult(
        f"The job's result is larger than {limit} bytes, the limit of CHUTES_MAX_JOB_RESULT_BYTES. "
        "Write large data to files in output_dir instead."
    )
