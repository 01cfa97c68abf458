"""A chute in front of a vLLM server for embeddings that the author starts."""

import json
from collections.abc import Callable
from typing import Any

from chutes.chute.base import Chute
from chutes.chute.node_selector import NodeSelector
from chutes.chute.template._server import PORT, ServerChute, announce, locked, passed_on
from chutes.image import Image
from chutes.image.standard.vllm import VLLM


class EmbeddingChutePack(ServerChute):
    """The chute, and its route's function."""

    embed: Callable[..., Any]


def build_embedding_chute(
    username: str,
    model_name: str,
    node_selector: NodeSelector,
    image: str | Image = VLLM,
    tagline: str = "",
    readme: str = "",
    concurrency: int = 32,
    engine_args: str | None = None,
    revision: str | None = None,
    max_instances: int = 1,
    scaling_threshold: float = 0.75,
    shutdown_after_seconds: int = 300,
    allow_external_egress: bool = False,
    tee: bool = False,
    pooling_type: str = "auto",
    max_embed_len: int = 3_072_000,
    enable_chunked_processing: bool = True,
) -> EmbeddingChutePack:
    """OpenAI's route for embeddings, passed on to port 10101; start the server with the `command` returned.

    `pooling_type` "auto" is the model's own; texts longer than the model's context are embedded in chunks, up to
    `max_embed_len` tokens. ValueError without `revision`.
    """
    arguments = locked(model_name, revision, engine_args)
    chute = Chute(
        username=username,
        name=model_name,
        image=image,
        tagline=tagline,
        readme=readme,
        standard_template="embedding",
        revision=revision,
        node_selector=node_selector,
        concurrency=concurrency,
        max_instances=max_instances,
        shutdown_after_seconds=shutdown_after_seconds,
        scaling_threshold=scaling_threshold,
        allow_external_egress=allow_external_egress,
        tee=tee,
    )
    pooler: dict[str, Any] = {} if pooling_type == "auto" else {"pooling_type": pooling_type}
    if enable_chunked_processing:
        pooler |= {"enable_chunked_processing": True, "max_embed_len": max_embed_len}
    serve = ["vllm", "serve", model_name, "--revision", str(revision), "--runner", "pooling"]
    listen = ["--host", "127.0.0.1", "--port", str(PORT)]
    pooling = ["--pooler-config", json.dumps(pooler)] if pooler else []
    passed_on(chute, "get_models", "/v1/models", "List the models.", method="GET")
    return EmbeddingChutePack(
        chute=chute,
        command=announce(chute, [*serve, *listen, *pooling], arguments),
        embed=passed_on(chute, "embed", "/v1/embeddings", "Embed texts."),
    )
