import dataclasses
import itertools
import json
import math
import time
import tracemalloc
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, Field

from chutes.server.errors import json_safe
from chutes.server.job_result import InvalidResult, encode

LIMIT = 1 << 20


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


class Model(BaseModel):
    steps: int = Field(default=1, alias="stepCount")
    secret: str = Field(default="s", exclude=True)
    when: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@dataclasses.dataclass
class Data:
    model: Model
    parts: list["Data"]


class Plain:
    def __init__(self) -> None:
        self.a, self.b = 1, [Colour.RED]


@pytest.mark.parametrize(
    "result",
    [
        None,
        True,
        0,
        -1.5e300,
        10**600,
        "",
        'quotes " \\ \n \x00 ä 🎨 \u2028',
        "half \ud800",
        [],
        {},
        [[], {}, [[]], {"a": {}}, ""],
        {"a": [1, {"b": None}], "": [True, False]},
        {1: "int", None: "none", 1.5: "float", Colour.RED: "enum", UUID(int=1): "uuid"},
        [math.nan, math.inf, -math.inf],
        (1, (2, 3)),
        {1},
        frozenset({"a"}),
        deque([1, 2]),
        OrderedDict(a=1),
        Colour.RED,
        [Level.HIGH],
        Point(1, 2),
        PurePosixPath("a/b"),
        b"bytes",
        datetime(2026, 1, 1, tzinfo=UTC),
        Decimal("1.50"),
        UUID(int=2),
        Model(),
        Data(Model(stepCount=2), [Data(Model(), [])]),
        pytest.param(Plain(), id="Plain()"),
        ["[", "{", "]"],
    ],
    ids=ascii,
)
def test_the_text_equals_fastapis(result: Any) -> None:
    assert json.loads(encode(result, LIMIT)) == json.loads(json.dumps(json_safe(jsonable_encoder(result))))


def test_a_generator_is_a_list() -> None:
    assert encode((n for n in range(3)), LIMIT) == b"[0,1,2]"


def contains_itself() -> list[Any]:
    result: list[Any] = []
    result.append({"again": result, "more": result})
    return result


def deep(levels: int) -> Any:
    result: Any = 1
    for _ in range(levels):
        result = [result]
    return result


class Endless:
    def __init__(self) -> None:
        self.next = self


class Strict(BaseModel):
    inner: Any = None


def strict() -> Strict:
    result = Strict()
    result.inner = [result]
    return result


def broken() -> Iterator[int]:
    yield 1
    raise RuntimeError("secret of /home/me")


REFUSED: dict[str, tuple[Any, str]] = {
    "itself": (contains_itself(), "contains itself"),
    "101": (deep(101), "deeper than 100 levels"),
    "100000": (deep(100_000), "deeper than 100 levels"),
    "object": (Endless(), "contains itself"),
    "model": (strict(), "cannot be encoded"),
    "generator": (broken(), "cannot be encoded"),
    "key": ({(1, 2): 3}, "cannot be encoded"),
    "bytes": (b"\xff", "cannot be encoded"),
    "digits": (10**5000, "cannot be encoded"),
    "nothing": (object(), "cannot be encoded"),
    "class": (Data, "cannot be encoded"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_result_that_is_not_json_has_a_message_for_clients(case: str) -> None:
    result, message = REFUSED[case]
    with pytest.raises(InvalidResult, match=message) as refused:
        encode(result, LIMIT)
    assert "secret" not in str(refused.value)


def test_a_hundred_levels_are_accepted() -> None:
    assert encode(deep(100), LIMIT) == b"[" * 100 + b"1" + b"]" * 100


@pytest.mark.parametrize(
    "result",
    ["x" * 98, ["x" * 96], {"k": "x" * 92}, "ä" * 49, [*[""] * 32, 1]],
    ids=["string", "list", "dict", "two-bytes", "items"],
)
def test_the_limit_is_exact(result: Any) -> None:
    size = len(encode(result, 1000))
    assert encode(result, size)
    with pytest.raises(InvalidResult, match=rf"larger than {size - 1} bytes.*CHUTES_MAX_JOB_RESULT_BYTES"):
        encode(result, size - 1)


HUGE: dict[str, Callable[[], Any]] = {
    "strings": lambda: ["x" * 1000] * 500_000,
    "string": lambda: "x" * 500_000_000,
    "bytes": lambda: {"k": b"x" * 500_000_000},
    "lists": lambda: [[1] * 1000] * 500_000,
    "dicts": lambda: [dict.fromkeys(map(str, range(1000)), 0.5)] * 100_000,
    "keys": lambda: {"x" * 500_000_000: 1},
    "iterator": lambda: (n for n in itertools.count()),
    "models": lambda: [Model()] * 20_000_000,
    "dataclasses": lambda: [Data(Model(), [])] * 20_000_000,
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_huge_result_takes_little_time_and_memory(kind: str) -> None:
    result = HUGE[kind]()
    tracemalloc.start()
    try:
        started_at = time.monotonic()
        with pytest.raises(InvalidResult):
            encode(result, LIMIT // 4)
        seconds, (_, peak) = time.monotonic() - started_at, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{kind}: {seconds:.2f} s, {peak / 1e6:.1f} MB")
    assert seconds < 60
    assert peak < 8e6
