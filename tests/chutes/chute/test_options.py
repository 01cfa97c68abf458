import math
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest

from chutes.chute import Chute, Cord, Job, NodeSelector, Port
from chutes.chute._options import ALIASES, FASTAPI_OPTIONS, NO_EFFECT, FastAPIOptions
from chutes.chute.cord import CordOptions
from chutes.chute.job import JobOptions
from chutes.chute.template.embedding import build_embedding_chute
from chutes.chute.template.sglang import build_sglang_chute
from chutes.chute.template.vllm import build_vllm_chute
from chutes.exception import ChutesWarning

Define = Callable[..., object]


def chute(**options: Any) -> Chute:
    return Chute(username="me", name="options", image="img", **options)


def template(build: Define) -> Define:
    def define(**options: Any) -> object:
        return build("me", "model", NodeSelector(), revision="abc", **options)

    define.__name__ = build.__name__
    return define


def cord(**options: Any) -> object:
    return chute().cord(**options)


def job(**options: Any) -> object:
    return chute().job(**options)


TEMPLATES = [template(build) for build in (build_vllm_chute, build_sglang_chute, build_embedding_chute)]
WITHOUT_EFFECT: list[tuple[Define, str, Any]] = [
    (chute, "allow_external_egress", True),
    (chute, "encrypted_fs", True),
    (chute, "tee", True),
    (chute, "lock_modules", True),
    (chute, "lock_modules", False),
    *((build, name, True) for build in TEMPLATES for name in ("allow_external_egress", "tee")),
    (cord, "provision_timeout", 60),
    (job, "ports", [Port(name="http", port=8002)]),
    (job, "ssh", True),
    (job, "upload", False),
    (NodeSelector, "max_hourly_price_per_gpu", 2.5),
]


@pytest.mark.parametrize(("define", "name", "value"), WITHOUT_EFFECT)
def test_an_argument_without_effect_warns_once_at_the_authors_line(define: Define, name: str, value: Any) -> None:
    with pytest.warns(ChutesWarning) as caught:
        define(**{name: value})
    (warning,) = caught
    assert f"{name}={value!r} has no effect: {NO_EFFECT[name].explanation}." in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(("define", "name", "value"), WITHOUT_EFFECT)
@pytest.mark.filterwarnings("error")
def test_the_default_does_not_warn(define: Define, name: str, value: Any) -> None:
    define(**{name: NO_EFFECT[name].default})


def test_every_argument_without_effect_is_tested() -> None:
    assert {name for _, name, _ in WITHOUT_EFFECT} == NO_EFFECT.keys()


@pytest.mark.parametrize(("options", "kind"), [(CordOptions, Cord), (JobOptions, Job)])
def test_a_decorators_options_are_the_classs_arguments(options: type, kind: type) -> None:
    arguments = get_type_hints(kind.__init__)
    for name in ("app", "session_kwargs", "unknown", "return"):
        arguments.pop(name, None)
    assert get_type_hints(options) == arguments


def test_the_typed_options_of_fastapi_are_those_of_fastapi() -> None:
    assert FastAPIOptions.__annotations__.keys() == FASTAPI_OPTIONS


@pytest.mark.parametrize("decorator", ["cord", "job"])
def test_a_decorator_refuses_a_positional_argument(decorator: str) -> None:
    with pytest.raises(TypeError, match="keyword arguments only; got '/path'"):
        getattr(chute(), decorator)("/path")


@pytest.mark.parametrize("decorator", ["cord", "job"])
@pytest.mark.parametrize("limit", ["max_body_bytes", "max_json_values"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9"])
def test_a_limit_is_none_or_an_integer_of_at_least_one(decorator: str, limit: str, value: Any) -> None:
    with pytest.raises(ValueError) as refused:
        getattr(chute(), decorator)(**{limit: value})
    expected = f"{decorator.title()} {limit} must be None or an integer of at least 1; got {value!r}."
    assert str(refused.value) == expected


COUNT = "an integer of at least 1"
COUNT_OR_ZERO = "an integer of at least 0"
NUMBERS: list[tuple[str, str, list[Any]]] = [
    ("concurrency", COUNT, [0, -1, "4", 2.0, True, None]),
    ("max_instances", COUNT, [0, -1, "4", 2.0, True, None]),
    ("max_replicas", COUNT, [0, "4", None]),
    ("min_replicas", COUNT_OR_ZERO, [-1, "4", 2.0, True, None]),
    ("min_instances", COUNT_OR_ZERO, [-1, "4", None]),
    ("shutdown_after_seconds", COUNT_OR_ZERO, [-1, "4", 2.5, True, None]),
    ("scale_down_delay", COUNT_OR_ZERO, [-1, "4", None]),
    ("scaling_threshold", "a number above 0 and up to 1", [0, -0.5, 1.5, 10, "0.5", True, None, math.nan]),
    ("scale_up_threshold", "None or a number above 0", [0, -1, "10", True, math.nan, math.inf]),
]


@pytest.mark.parametrize(
    ("name", "rule", "value"), [(name, rule, value) for name, rule, values in NUMBERS for value in values]
)
def test_an_error_of_a_number_contains_the_authors_name_for_it(name: str, rule: str, value: Any) -> None:
    with pytest.raises(ValueError) as refused:
        chute(**{name: value})
    assert str(refused.value) == f"Chute {name} must be {rule}; got {value!r}."


@pytest.mark.parametrize("port", [0, 65_536, "8000"])
def test_the_port_of_an_upstream(port: Any) -> None:
    with pytest.raises(ValueError, match="Cord passthrough_port must be None or an integer from 1 to 65535; got"):
        cord(passthrough_port=port)


def test_every_number_is_checked() -> None:
    hints = get_type_hints(Chute.__init__)
    numbers = {name for name, hint in hints.items() if {int, float} & {hint, *get_args(hint)}}
    assert {name for name, _, _ in NUMBERS} == numbers | ALIASES.keys()
