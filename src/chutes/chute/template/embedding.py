"""A chute in front of a vLLM server for embeddings that the author starts."""

import json
from typing import Any, Unpack

from chutes.chute.node_selector import NodeSelector
from chutes.chute.template._openai import (
    Handler,
    ServerChute,
    ServerOptions,
    forward,
    forward_models,
    new_chute,
    server_command,
)
from chutes.image import Image
from chutes.image.standard.vllm import VLLM


class EmbeddingChutePack(ServerChute):
    """A chute in front of a vLLM server for embeddings, and its handler."""

    embed: Handler


def build_embedding_chute(
    username: str,
    model_name: str,
    node_selector: NodeSelector,
    image: str | Image = VLLM,
    *,
    pooling_type: str = "auto",
    max_embed_len: int = 3_072_000,
    enable_chunked_processing: bool = True,
    **options: Unpack[ServerOptions],
) -> EmbeddingChutePack:
    """Create a chute that forwards `/v1/embeddings` to port 10101. Start vLLM with the `command` that it returns.

    Args:
        username: The owner's name.
        model_name: The model's repository, which also names the chute.
        node_selector: The GPUs that one replica needs.
        image: The container image.
        pooling_type: How token embeddings are pooled, as "CLS" or "MEAN"; "auto" is the model's own way.
        max_embed_len: The longest text in tokens, where texts are processed in chunks.
        enable_chunked_processing: Whether to split a text that is longer than the model's context into chunks.
        options: `revision`, the commit of the model, is required. `engine_args` are more arguments for vLLM. The others
            are those of `Chute`; `concurrency` is 32 by default.

    Raises:
        ValueError: `revision` is missing, or is among the `engine_args`.
    """
    chute = new_chute("embedding", username, model_name, node_selector, image, options)
    pooler: dict[str, Any] = {} if pooling_type == "auto" else {"pooling_type": pooling_type}
    if enable_chunked_processing:
        pooler |= {"enable_chunked_processing": True, "max_embed_len": max_embed_len}
    words = ["vllm", "serve", model_name, "--revision", str(chute.revision), "--runner", "pooling"]
    if pooler:
        words += ["--pooler-config", json.dumps(pooler)]
    forward_models(chute)
    embed = forward(chute, "embed", "/v1/embeddings", "Embed texts.")
    return EmbeddingChutePack(chute=chute, command=server_command(chute, words, options), embed=embed)
