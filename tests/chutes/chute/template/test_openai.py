"""Templates for language model servers."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from chutes.chute import ChutePack, NodeSelector
from chutes.chute.template import build_vllm_chute
from chutes.chute.template.embedding import build_embedding_chute
from chutes.chute.template.sglang import build_sglang_chute

BUILDERS: list[Callable[..., Any]] = [build_vllm_chute, build_sglang_chute, build_embedding_chute]
LANGUAGE = {("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models")}
ROUTES: list[tuple[Callable[..., Any], set[tuple[str, str]]]] = [
    (build_vllm_chute, LANGUAGE | {("POST", "/tokenize"), ("POST", "/detokenize")}),
    (build_sglang_chute, LANGUAGE),
    (build_embedding_chute, {("POST", "/v1/embeddings"), ("GET", "/v1/models")}),
]


def build(builder: Callable[..., Any], **options: Any) -> Any:
    return builder(
        username="myuser",
        model_name="org/Model-7B",
        node_selector=NodeSelector(),
        **({"revision": "abc", "engine_args": "--max-model-len 4096"} | options),
    )


@pytest.mark.parametrize(("builder", "routes"), ROUTES)
def test_routes(builder: Callable[..., Any], routes: set[tuple[str, str]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack = build(builder)
    assert isinstance(pack, ChutePack)
    assert {(verb, cord.route_path) for cord in pack.chute.cords for verb in cord.route_methods} == routes
    assert all(cord.passthrough and cord.passthrough_port == 10101 for cord in pack.chute.cords)
    paths = pack.chute.openapi()["paths"]
    assert {(verb.upper(), path) for path in paths for verb in paths[path]} == routes


def test_streaming_and_plain_cords_share_one_route() -> None:
    pack = build(build_vllm_chute)
    assert [(c.name, c.stream) for c in pack.chute.cords if c.route_path == "/v1/chat/completions"] == [
        ("chat_stream", True),
        ("chat", False),
    ]
    assert callable(pack.chat)
    assert callable(pack.completion_stream)


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_revision_is_required_once(builder: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="revision="):
        build(builder, revision=None)
    with pytest.raises(ValueError, match="must not contain --revision"):
        build(builder, engine_args="--revision abc")


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_command_of_the_server(builder: Callable[..., Any]) -> None:
    pack = build(builder)
    assert pack.command[-2:] == ["--max-model-len", "4096"]
    assert pack.command[pack.command.index("--port") + 1] == "10101"
    assert "org/Model-7B" in pack.chute.info["server"]
    # Everybody sees that, and a key may be among the author's arguments.
    assert "--max-model-len" not in pack.chute.info["server"]


def test_options_reach_the_chute() -> None:
    chute = build(build_vllm_chute, concurrency=4, max_instances=2, tagline="t").chute
    assert (chute.name, chute.concurrency, chute.max_instances, chute.tagline) == ("org/Model-7B", 4, 2, "t")
    assert (chute.revision, chute.standard_template, chute.image) == ("abc", "vllm", "chutes/vllm:nightly-2025111700")


def test_pooling_options() -> None:
    command = " ".join(build(build_embedding_chute, pooling_type="CLS", enable_chunked_processing=False).command)
    assert '{"pooling_type": "CLS"}' in command
    plain = build(build_embedding_chute, enable_chunked_processing=False, engine_args=None).command
    assert "--pooler-config" not in plain


def test_without_the_server_it_is_502(serve: Callable[..., TestClient]) -> None:
    pack = build(build_vllm_chute)
    for cord in pack.chute.cords:
        cord.passthrough_port = 1  # nothing listens there
    assert serve(pack.chute).post("/v1/chat/completions", json={}).status_code == 502
