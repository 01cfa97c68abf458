"""A job's result as JSON text, encoded in small steps and up to a limit.

`jsonable_encoder` and `json.dumps` copy the whole value before its size is known, and the C encoder holds the
interpreter's lock until it is done. A result can have any size, so this encoder walks it lazily and stops at the limit.
Only a pydantic model is dumped as a whole, by pydantic.
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

_DEEPEST = 100  # levels: a result that contains itself has no end
_SCALARS = (str, int, float, NoneType)
_LISTS = (list, tuple, set, frozenset, deque, GeneratorType)
_JSON_TYPES = frozenset({str, int, float, bool, NoneType, dict, list, tuple})
_SIMPLE: tuple[type[Any], ...] = (*ENCODERS_BY_TYPE, PurePath)
_END: Any = object()


class InvalidResult(ChutesError):
    """A job returned something that cannot be kept: too large, or not JSON."""


def encode(result: Any, limit: int) -> bytes:
    """Return the JSON text of a job's result, at most `limit` bytes of it.

    Types are converted as FastAPI does. NaN and infinities become strings, and lone surrogates question marks.
    InvalidResult for a result that is too large, nested too deeply, or not JSON.
    """
    try:
        return _encode(result, limit)
    except InvalidResult:
        raise
    except Exception as error:
        raise InvalidResult("The job's result cannot be encoded as JSON; its log says why") from error


def _encode(result: Any, limit: int) -> bytes:
    text = bytearray()
    # What is left of each container that is open, and its closing bracket; no recursion, which has a limit of its own.
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
            item = _one_step(item, limit)
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
        if len(containers) > _DEEPEST + 1:  # the first one holds the result itself
            raise InvalidResult(f"The job's result is nested deeper than {_DEEPEST} levels, or contains itself")
    return bytes(text)


def _one_step(value: Any, limit: int) -> Any:
    """The value as a JSON type, but not what it contains."""
    if type(value) in _JSON_TYPES:
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return _one_step(value.value, limit)
    return value if isinstance(value, (*_SCALARS, dict, *_LISTS)) else _from_object(value, limit)


def _from_object(value: Any, limit: int) -> Any:
    if isinstance(value, bytes) and len(value) > limit:
        raise _too_large(limit)
    if isinstance(value, _SIMPLE):
        return jsonable_encoder(value)
    try:
        return dict(value)
    except Exception:  # noqa: BLE001 - as FastAPI does: any object that has attributes will do
        return vars(value)


def _key(key: Any, limit: int) -> bytes:
    key = _one_step(key, limit)
    if not isinstance(key, _SCALARS):
        raise TypeError(f"A key of type {type(key).__name__} has no JSON form")
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
    raise TypeError(f"A value of type {type(value).__name__} has no JSON form")


def _string(value: str, limit: int) -> bytes:
    if len(value) > limit:
        raise _too_large(limit)
    return encode_basestring(value).encode("utf-8", "replace")


def _too_large(limit: int) -> InvalidResult:
    return InvalidResult(
        f"The job's result is larger than {limit} bytes, the limit set by CHUTES_MAX_JOB_RESULT_BYTES: "
        "write large data to files in output_dir instead"
    )
