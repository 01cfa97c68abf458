"""Valid JSON is read as `json.loads` reads it, and other text is rejected."""

import json
import math
import re
from typing import Any

import pytest
from hypothesis import strategies as st

from benchmarks.harness.server import Server
from tests.fuzz.conftest import Fuzz

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3600)]

MAX_DIGITS = 640
REJECTED = {400, 413, 422}
JSON = {"Content-Type": "application/json"}

texts = st.text(st.characters(codec="utf-8"), max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=6),
    max_leaves=40,
)
objects = st.dictionaries(texts, values, max_size=8)
tokens = st.sampled_from([
    "{", "}", "[", "]", ",", ":", '"', "\\", '\\"', "\\u", "\\ud800", "\\ud83d\\ude00", "\\u0000", "NaN", "Infinity",
    "-Infinity", "null", "true", "1", "-", "1e400", "0.1", "9" * 639, "9" * 641, "9" * 5000, " ", "\n", "\ufeff", "é",
    "😀", '"a":', "[" * 1000,
])  # fmt: skip
almost = st.lists(tokens | texts, max_size=40).map("".join)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """Change some bytes of a valid body."""
    body = bytearray(json.dumps(draw(objects), ensure_ascii=draw(st.booleans())).encode())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(body)


bodies = st.one_of(
    mangled(),
    almost.map(lambda text: text.encode("utf-8", "surrogatepass")),
    almost.map(lambda text: b'{"a":' + text.encode("utf-8", "surrogatepass") + b"}"),
    almost.map(lambda text: b'{"a":"NaN' + text.encode("utf-8", "surrogatepass")),
    st.tuples(almost, st.sampled_from(["utf-16-le", "utf-16", "utf-32-be", "latin-1"])).map(
        lambda pair: f'{{"a":{pair[0]}}}'.encode(pair[1], "replace")
    ),
    st.binary(max_size=200),
)


class NotJson(ValueError):
    """Text that the standard does not allow, or that is very long."""


def _no_constant(name: str) -> Any:
    raise NotJson(name)


class Ambiguous(Exception):
    """Text that a server may accept or reject."""


def _number(digits: str) -> float:
    runs = [len(run) for run in re.findall(r"\d+", digits)]
    if max(runs) > MAX_DIGITS or not math.isfinite(float(digits)):
        raise NotJson(digits)
    if sum(runs) > MAX_DIGITS:
        raise Ambiguous(digits)
    return float(digits)


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise NotJson(digits)
    return int(digits)


def read(body: bytes) -> dict[str, Any]:
    """Parse a body by the standard. Raise ValueError, RecursionError or Ambiguous."""
    text = body.decode("utf-8")
    if text.startswith("\ufeff"):
        raise Ambiguous("a byte-order mark")
    found = json.loads(text, parse_constant=_no_constant, parse_float=_number, parse_int=_whole)
    json.dumps(found, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair cannot be encoded
    if not isinstance(found, dict):
        raise NotJson("no object")
    return found


def test_valid_json_is_read_and_other_text_is_rejected(server: Server, fuzz: Fuzz) -> None:
    def check(body: bytes) -> None:
        answer = server.post("/any", json=None, content=body, headers=JSON)
        try:
            expected = read(body)
        except Ambiguous:
            assert answer.status_code in {200, *REJECTED}
            return
        except (ValueError, RecursionError):
            expected = None
        if expected is not None:
            assert answer.status_code == 200, answer.text
            assert answer.json() == expected
        elif body:  # an empty body is an empty object
            assert answer.status_code in REJECTED, (body, answer.text[:200])

    print(f"{fuzz(bodies, check)} bodies")


def test_models_and_jobs_never_fail_with_500(server: Server, fuzz: Fuzz) -> None:
    def check(body: bytes) -> None:
        drawn = server.post("/model", json=None, content=body, headers=JSON)
        assert drawn.status_code in {200, *REJECTED}, drawn.text
        submitted = server.post("/jobs/work", json=None, content=body, headers=JSON)
        assert submitted.status_code in {202, 429, *REJECTED}, submitted.text

    named = st.fixed_dictionaries({"prompt": values}, optional={"width": values, "scale": values, "steps": values})
    print(f"{fuzz(bodies | named.map(lambda each: json.dumps(each).encode()), check)} bodies")
